"""`latentc.json`: what an artifact is, where it came from, what it declares and what was measured of it.

The types here are the one description that the compiler writes and that runtimes, `verify` and
`inspect` read. They are data only: nothing in a manifest is executed, and a class named in it is
imported only from the libraries in `TRUSTED_LIBRARIES`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from artifacts.call_trees import Tree
from artifacts.evidence_records import (
    Calibration,
    Evidence,
    Forecast,
    PictureEvidence,
    PipelineEvidence,
    SpeedChoice,
)
from artifacts.strict_record import Count, Record, Share

SCHEMA_VERSION = 3
DIGEST_SCHEMA = 3
"""The first schema version whose files carry a digest of themselves (`artifacts.manifest_digest`)."""
MANIFEST_NAME = "latentc.json"
SIGNATURE_NAME = "latentc.sig"
"""Of the signature, beside the manifest, which does not list it (`artifacts.artifact_signature`)."""

# A manifest may name classes (of pipelines, modules and outputs) of these libraries and of no other.
TRUSTED_LIBRARIES = frozenset({"diffusers", "transformers"})


class FileRecord(Record):
    """One file: `path` is relative to the artifact, with forward slashes; `size` is in bytes."""

    path: str
    sha256: str
    size: Count


class DimRange(Record):
    """The declared range of a symbolic dimension, both ends included: `min`, and what is whole steps above it."""

    min: int
    max: int
    step: int = 1

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max and (size - self.min) % self.step == 0

    def nearest(self, size: int) -> tuple[int, ...]:
        """The size itself where it is in the range, else those of the range next to it: one or two."""
        if size in self:
            return (size,)
        below = self.min + (min(size, self.max) - self.min) // self.step * self.step
        return tuple(near for near in (below, below + self.step) if near in self) or (self.min,)

    @property
    def text(self) -> str:
        """ "1..4"; "4" where both ends are it; "64..128 in steps of 32"."""
        if self.min == self.max:
            return str(self.min)
        return f"{self.min}..{self.max}" + (f" in steps of {self.step}" if self.step > 1 else "")


class TensorSpec(Record):
    """A graph input or output. `shape` holds ints for fixed and names for symbolic dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class WeightRecord(Record):
    """One quantized weight.

    Attributes:
        key: the stored tensor's name.
        scheme: with its options, as a recipe's rule would name it ("int4:group=64"; "none": it was spared).
        parameters: elements.
        bytes: on disk: values, scales, zero points and corrections.
        error: ``||restored - weight|| / ||weight||``; None for a weight that was spared, whose rounding to the graph's
            precision was not measured.
        note: why it is not the scheme that was asked for; empty when it is.
    """

    key: str
    scheme: str
    parameters: Count
    bytes: Count
    error: Share | None
    note: str = ""


Built = dict[str, JsonValue]
"""What a target says of the files it wrote, for its own session and for people."""


class GraphSpec(Record):
    """A graph's interface: all that a session needs to open and to call it.

    Attributes:
        folder: the folder in the artifact, e.g. "vae_decoder".
        model_file: the file that a session opens, relative to the artifact.
        dims: declared ranges of the symbolic dimensions used in `inputs` and `outputs`.
        precision: what weights are stored in, "fp32", "fp16" or "bf16"; of a graph that is typed itself also what it
            computes in.
        built: what the target says of the files: what they need to run, and what built them.
    """

    folder: str
    model_file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: dict[str, DimRange]
    precision: str
    built: Built = Field(default_factory=dict)


class GraphRecord(GraphSpec):
    """One compiled graph: a folder of vendor files, how it was made and what was measured of it.

    Attributes:
        rewrites: names of the exact rewrites that the graph got.
        approximations: names of those that the graph got, after which it is not quite PyTorch's.
        kept_fp32: what stayed in fp32 in a lower-precision graph, and why (one line each).
        schemes: bytes written for each weight scheme ("float16": 1719...).
        digest: SHA-256 of the target-neutral graph's structure.
        weights: those that were quantized.
        calibration: what activations were measured on; None where none were.
        evidence: one for each type that was measured; one that says why where none was.
    """

    rewrites: tuple[str, ...] = ()
    approximations: tuple[str, ...] = ()
    kept_fp32: tuple[str, ...] = ()
    parameters: Count
    schemes: dict[str, int]
    digest: str
    weights: tuple[WeightRecord, ...] = ()
    calibration: Calibration | None = None
    evidence: tuple[Evidence, ...]


class MethodRecord(Record):
    """One captured way of calling a component, answered by the graph whose folder is `graph`.

    `arguments` are by the method's own parameter names, defaults filled in. `state` is what the pipeline had set on
    the module for the call, by its path there ("mid_block.attn1.processor"); an object's items are its attributes. A
    call of a module on which something else is set does not fit. `other_result` is what comes back where the call's
    `return_dict` is the other of its two values; None where that is not known. `settings` are inputs of the graph that
    are set on the module, by the paths of the attributes that they are (`runtimes.settings`).
    """

    method: str
    arguments: dict[str, Tree]
    result: Tree
    graph: str
    state: dict[str, Tree] = Field(default_factory=dict)
    other_result: Tree | None = None
    settings: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class ComponentRecord(Record):
    """One module of the pipeline, replaced by a shell whose captured methods call sessions.

    Attributes:
        name: the pipeline's name for it ("unet").
        class_path: "diffusers.models...:UNet2DConditionModel".
        config: the config.json that the shell is built from, relative to the artifact.
        methods: tried in order; the first whose arguments fit a call answers it.
        residual: safetensors with the small tensors that the pipeline reads outside captured methods.
    """

    name: str
    class_path: str
    config: str
    methods: tuple[MethodRecord, ...]
    residual: str | None = None


class LeftOut(Record):
    """A component of the model that the artifact does not have, its class, and why."""

    name: str
    class_name: str
    reason: str


class RecipeRule(Record):
    """Weights whose key matches the shell-like pattern `match` take `scheme`; "none" leaves them as they are."""

    match: str
    scheme: str
    options: dict[str, bool | int | str] = Field(default_factory=dict)


class RecipeComponent(Record):
    """One component's weights: the first of `weights` that matches, otherwise `scheme`.

    `scheme` may be a precision: the component is then not quantized and stored in it.
    """

    scheme: str = "none"
    options: dict[str, bool | int | str] = Field(default_factory=dict)
    weights: tuple[RecipeRule, ...] = ()


class Recipe(Record):
    """How a model is quantized, by component or by graph folder. With the source, it rebuilds the artifact."""

    version: Literal[1] = 1
    components: dict[str, RecipeComponent]


LARGEST_STRENGTH = 3.4028234663852886e38
"""Of an adapter: the largest number in float32, in which differences are multiplied by it."""

Strength = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST_STRENGTH, le=LARGEST_STRENGTH)]


class Adapter(Record):
    """A file of differences (a LoRA and its kin) that is added to a model's weights.

    Attributes:
        file: its path. In a manifest, that in the model's folder; the name alone of a file that is elsewhere.
        weight: what the differences are multiplied by.
        components: other weights by component ("text_encoder": 0.0).
        sha256: of the file that was merged; empty before that.
        left_out: how many of its tensors found no weight and were left out, where that was asked for.
    """

    file: str
    weight: Strength = 1.0
    components: dict[str, Strength] = Field(default_factory=dict)
    sha256: str = ""
    left_out: int = 0

    @property
    def name(self) -> str:
        """The file's, without its folder."""
        return self.file.replace("\\", "/").rpartition("/")[2]

    @property
    def text(self) -> str:
        """For people: name, weights and content, but not where the file lies."""
        weights = [f"{self.weight:g}", *(f"{name} {weight:g}" for name, weight in self.components.items())]
        parts = f", {self.left_out} tensors left out" if self.left_out else ""
        return f"{self.name} at {', '.join(weights)}{parts}, SHA-256 {self.sha256}"


class Embedding(Record):
    """A file with a textual inversion: what its token means. `token` is empty where the file names it."""

    file: str
    token: str = ""
    sha256: str = ""


class IpAdapter(Record):
    """A file with an IP-Adapter: attention to a picture, for a denoiser."""

    file: str
    sha256: str = ""


class ModelSpec(Record):
    """What a model is made of, where that is more than its folder.

    Attributes:
        model: a diffusers folder, a single file, a built-in name or a hub id.
        config: of a single file: a folder with the configuration of each component; empty for what diffusers infers.
        components: a component's other folder or file, or "none" to leave it out, by name; of several models (a list of
            ControlNets) their folders.
        adapters: merged into the weights, in this order.
        partial: whether tensors of an adapter that find no weight are left out, and not an error.
        embeddings: tokens that are added.
        ip_adapters: put into the denoiser, in this order.
        spare_tokens: how many vectors of tokens each text encoder can learn when it runs.
    """

    model: str
    config: str = ""
    components: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()
    partial: bool = False
    embeddings: tuple[Embedding, ...] = ()
    ip_adapters: tuple[IpAdapter, ...] = ()
    spare_tokens: int = 0


class Source(Record):
    """Where the model came from.

    Attributes:
        id: as it was asked for: a folder, a hub id or a built-in name.
        revision: the hub's commit; else empty.
        license: as the model's own card names it ("apache-2.0", "openrail++"); empty where it names none.
        weights: every weight file that was read.
        spec: what it was made of where that is more than a folder; None for a folder.
    """

    id: str
    revision: str = ""
    license: str = ""
    weights: tuple[FileRecord, ...]
    spec: ModelSpec | None = None


class Manifest(Record):
    """The whole of `latentc.json`."""

    schema_version: Literal[2, 3] = 2
    """Version 1 had one record of evidence for each graph, and one of pictures, and did not say what they were
    computed in; `artifacts.manifest_reading` makes version 2 of it. Version 3 is version 2 with a digest: what is
    published is of version 3."""
    digest: str = ""
    """SHA-256 (`artifacts.manifest_digest`) of the manifest's file; empty before it is published, and in files of
    earlier versions."""
    source: Source
    parent: str = ""
    """`digest` of the artifact that this one was rebuilt from; empty for one that was compiled, and where that one had
    none."""
    pipelines: dict[str, str]
    """Task ("text-to-image") -> class path of the diffusers pipeline that does it."""
    target: str
    device: str
    options: dict[str, str | int | float | bool | None]
    arguments: dict[str, str] = Field(default_factory=dict)
    """What `--arg` gave to the pipeline's call, as texts."""
    precision: str
    quantization: Recipe | None = None
    """What `--quantize` became for this model; None for nothing."""
    pictures: tuple[PictureEvidence, ...] = ()
    """What was measured of a quantized model's pictures, for each type; none where nothing was to be."""
    pipeline_evidence: tuple[PipelineEvidence, ...] = ()
    """What was measured of each task as a whole; none in artifacts from before there was such a check."""
    left_out: tuple[LeftOut, ...] = ()
    """Components of the model that no graph stands for."""
    forecast: Forecast | None = None
    """What `--accelerate auto` is, and what was measured of it; None where it was not tuned."""
    speed: SpeedChoice | None = None
    """What was chosen for speed, and what was tried; None where nothing was searched for."""
    sizes: dict[str, DimRange]
    """Declared ranges of "height", "width" (pixels), "batch" (images or videos), of videos "frames", and, where it has
    one, "tokens" (of the text)."""
    components: tuple[ComponentRecord, ...]
    graphs: tuple[GraphRecord, ...]
    files: tuple[FileRecord, ...]
    """Every file of the artifact but the manifest itself."""
    toolchain: dict[str, str]
    created: str
