"""What a bench found: the JSON document that `latentc bench --json` writes.

Its JSON schema is published as bench/bench.schema.json, written by `python -m bench.record`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError, WithJsonSchema

from artifacts import named_files
from artifacts.errors import LatentcError
from artifacts.publish import require_outside

SCHEMA_FILE = Path(__file__).resolve().with_name("bench.schema.json")
SCHEMA_ID = "urn:latentc:bench:1"


def _to_json(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf" if value > 0 else "-inf"


def _from_json(value: Any) -> Any:
    return {"inf": math.inf, "-inf": -math.inf}.get(value, value) if isinstance(value, str) else value


# JSON has no infinity, and the PSNR of equal pictures is one. Not-a-number is nothing that was measured.
Number = Annotated[
    float,
    BeforeValidator(_from_json),
    PlainSerializer(_to_json),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["inf", "-inf"]}, {"type": "null"}]}),
]


class Record(BaseModel):
    """Base: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Spread(Record):
    """Repeated measurements of one thing: median and quartiles of `count` of them."""

    median: float
    low: float
    high: float
    count: int


class Measured(Record):
    """One quality, over all pictures.

    Attributes:
        value: None when it was not measured.
        low, high: 95 % confidence interval, bootstrapped over prompts; None with fewer than two prompts.
        worst: of any single picture; None where the quality is one of the whole set.
        reason: why it was not measured, or how it was where that is not the usual way.
    """

    value: Number | None = None
    low: Number | None = None
    high: Number | None = None
    worst: Number | None = None
    reason: str = ""


class Memory(Record):
    """Bytes that a fresh process held at most, from its start to its first picture; kinds as in Linux."""

    total: int
    anonymous: int | None
    file_backed: int | None


class Start(Record):
    """One fresh process.

    Attributes:
        import_s: importing the libraries, in seconds.
        load_s: from the files to a pipeline that can be called. Some compile their graphs here, others when the
            first inputs come.
        first_step_s: loading, and the first picture up to the end of its first step; None where it is not told.
        first_image_s: loading and drawing the first picture.
        memory: None where it was not watched.
    """

    import_s: float
    load_s: float
    first_step_s: float | None = None
    first_image_s: float
    memory: Memory


class Component(Record):
    """One method of a component: calls for each picture, and milliseconds of one call."""

    calls: int
    ms: Spread


class Calls(Record):
    """Timesteps of a picture for which the denoiser was called, and all of them: means over pictures."""

    made: float
    of: float


class Speed(Record):
    """Times of the process that drew all pictures, its first one left out.

    Attributes:
        step_ms: milliseconds of a denoising step, of everything in it; None where the engine does not tell.
        image_s: seconds of a picture.
        images_per_minute: of one after the other.
        components: "unet.forward" -> its times.
        step_ratio: step_ms (image_s where there is none) over the reference's, each with its own round's:
            below 1 is faster; None without a reference.
        calls: None where every step makes its calls.
    """

    step_ms: Spread | None
    image_s: Spread
    images_per_minute: float
    components: dict[str, Component]
    step_ratio: Measured | None
    calls: Calls | None = None


class Quality(Record):
    """Pictures against those of the reference with the same prompts, seeds and initial noise.

    Attributes:
        psnr: dB, of the mean squared error over all pictures; infinite where they are equal.
        ssim, ms_ssim: means, from -1 and 0 to 1.
        latent_error: relative error |a - b| / |b| of the last latents, median.
        latent_curve: the same after each step; empty when it was not measured.
        broken: share of pictures that are black or whose latents are not finite.
        equal: share of pictures that are the same in every pixel.
        prompt_accuracy: share of what the prompts say that is read back right; for prompts of `shapes`.
        lpips, fid: to the reference's pictures; clip_score: to the prompts.
    """

    psnr: Measured
    ssim: Measured
    ms_ssim: Measured
    latent_error: Measured
    latent_curve: tuple[float | None, ...]
    broken: Measured
    equal: Measured
    prompt_accuracy: Measured
    lpips: Measured
    clip_score: Measured
    fid: Measured


class Picture(Record):
    """One picture: `prompt` is its index; psnr in dB to the reference's, None where there is none."""

    prompt: int
    seed: int
    seconds: float
    step_ms: float | None
    psnr: Number | None


class Variant(Record):
    """One thing that was measured.

    Attributes:
        name: unique in the document.
        kind: "artifact", "pytorch", or "peer" (another project's pipeline).
        about: what it is, for people: target, precision, the type that it computes in ("compute").
        device: what was asked for; threads: None where the vendor chose.
        bytes: on disk.
        compile_s: seconds to make it from the model, where that was part of the bench.
        compile_memory: bytes that making it took at most, as above.
        error: why there is nothing else here; empty when all went well.
    """

    name: str
    kind: Literal["artifact", "pytorch", "peer"]
    about: dict[str, str]
    device: str
    threads: int | None = None
    bytes: int
    compile_s: float | None = None
    compile_memory: int | None = None
    error: str = ""
    cold: Start | None = None
    warm: Start | None = None
    speed: Speed | None = None
    quality: Quality | None = None
    pictures: tuple[Picture, ...] = ()


class Settings(Record):
    """What was drawn. None is the pipeline's own default."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float | None
    size: tuple[int, int] | None
    task: str
    device: str


class Environment(Record):
    """Where it was measured. load_average: of the last minute when it began; None where there is none."""

    machine: str
    processor: str
    cores: int
    logical_cores: int
    memory: int
    system: str
    python: str
    load_average: float | None
    evicted: bool
    """Whether files were dropped from the page cache before a cold start."""
    packages: dict[str, str]
    variables: dict[str, str]


class Bench(Record):
    """The whole document.

    Attributes:
        reference: the name of the variant that the others are compared with, or None.
        reopened: how many times a process was started again because not all fit in memory together.
    """

    schema_version: Literal[1] = 1
    created: str
    command: tuple[str, ...]
    settings: Settings
    environment: Environment
    reference: str | None
    variants: tuple[Variant, ...]
    reopened: int = 0

    def variant(self, name: str) -> Variant | None:
        """The variant of that name."""
        return next((variant for variant in self.variants if variant.name == name), None)


def schema() -> str:
    """The JSON schema of `Bench`, as it is published."""
    definition = Bench.model_json_schema(mode="serialization")
    return json.dumps({"$id": SCHEMA_ID, **definition}, indent=2) + "\n"


def write(bench: Bench, path: Path) -> None:
    """Writes the document; not-a-number becomes null.

    Raises:
        UsageError: it lies in an artifact.
        LatentcError: it cannot be written.
    """
    require_outside(path)
    try:
        path.write_text(bench.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise LatentcError(f"{path} cannot be written: {error.strerror or error}.") from None


def read(path: Path) -> Bench:
    """A document that `write` wrote.

    Raises:
        LatentcError: it cannot be read, or is no such document; one line.
    """
    again = "Make one: latentc bench ARTIFACT --json FILE"
    try:
        text = named_files.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise LatentcError(f"{path} cannot be read: {why}.", again) from None
    try:
        return Bench.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise LatentcError(f"{path} is no result of a bench: {where}: {first['msg']}.", again) from None


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema(), encoding="utf-8", newline="\n")
    print(f"wrote {SCHEMA_FILE.name}")
