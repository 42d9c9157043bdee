"""`python -m bench.project.run_memory [NAME...]`: what drawing with models of published sizes takes under hard limits.

Each model has random weights, is compiled for OpenVINO, and draws one picture twice: without a limit, and under one
that counts the page cache, too (`bench.project.memlimit`). The pictures must be equal, and what the plan said beside
what the process took. With --peers, OpenVINO GenAI and optimum-intel draw the same, their peaks beside ours. Exits
with 1 where a picture differs, a process is killed, or a plan is off by more than it may.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from artifacts import worker
from artifacts.errors import LatentcError
from artifacts.manifest_reading import read_manifest
from artifacts.memory import available
from artifacts.units import size
from bench.project import memlimit, peers
from bench.project.full_size.make import make
from bench.project.full_size.published import PUBLISHED, Architecture
from bench.project.memlimit import MIB
from bench.project.memory_rows import Row, table
from bench.subjects import is_artifact
from compiler.evidence.metrics import psnr
from runtimes.memory_plan import memory_plan

PROMPT = "a large red circle at the left on a blue background"

HEADROOM = 0.9
"""The part of a hard limit that the plan is given: page cache and the processes' own pages are in the rest."""

COMPILE_LIMIT = 9216
"""MiB that a compile is held to, unless asked for less: what it then cannot compare with PyTorch it measures in memory
alone."""

PEERS = {"openvino-genai": "Text2ImagePipeline", "optimum-intel": "OVDiffusionPipeline"}
"""Who draws the same, and by which class."""

PEER_OPTIONS = {"int4": ("--group-size", "64")}
"""Of optimum-intel's export: its own 128 does not divide the 320 channels of Stable Diffusion's UNet."""


@dataclass(frozen=True)
class Case:
    """One model under one limit.

    Attributes:
        model: a name in `PUBLISHED`.
        quantize: as `latentc compile --quantize`; empty for none.
        limits: of the process that draws, in MiB, each for a picture of its own.
        dtype: of the model's weights on the disk.
        changes: to the published configs, by part, where the case is of the denoiser alone.
        blocks: as `bench.project.full_size.make.make`, where a disk does not hold all weights.
    """

    model: str
    quantize: str
    size: str
    steps: int
    limits: tuple[int, ...]
    dtype: str = "fp16"
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blocks: int | None = None

    @property
    def architecture(self) -> Architecture:
        """What its model is made of."""
        published = PUBLISHED[self.model]
        parts = [replace(p, config={**p.config, **self.changes.get(p.name, {})}) for p in published.parts]
        return replace(published, parts=tuple(parts))

    @property
    def name(self) -> str:
        """Of its row and its artifact."""
        return f"{self.model}-{self.quantize or 'bf16'}"

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height."""
        width, height = map(int, self.size.split("x"))
        return width, height


CASES = {
    case.name: case
    for case in (
        Case("sd15", "", "512x512", 2, (3072,)),
        Case("sd15", "int4", "512x512", 2, (2048,)),
        Case("sdxl", "int8", "1024x1024", 1, (4608,)),
        Case(
            "flux",
            "int4",
            "512x512",
            1,
            (6144, 4096),
            changes={"text_encoder_2": {"num_layers": 1}},
            blocks=1,
        ),
    )
}


def command(case: Case, artifact: Path, out: Path, memory: int | None, tile: str = "auto") -> list[str]:
    """What draws the case's picture, and tells its timings."""
    limited = [] if memory is None else ["--memory", str(memory)]
    return [
        *(*worker.command("latentc.cli:main"), "generate", str(artifact), PROMPT, "-o", str(out)),
        *("--steps", str(case.steps), "--seed", "1", "--size", case.size, "--tile", tile, "--json", *limited),
    ]


def drawn(case: Case, artifact: Path, out: Path, limit: int | None) -> Row:
    """One picture in a process of its own, with no graph in its cache.

    Args:
        limit: in MiB.
    """
    forget(artifact)
    budget = None if limit is None else int(limit * MIB * HEADROOM)
    plan = memory_plan(read_manifest(artifact.absolute()), budget, picture=case.picture, process=True)
    way = plan.way
    with tempfile.TemporaryDirectory(prefix="latentc-cache-") as cache, tempfile.TemporaryFile() as told:
        usage = memlimit.run(
            command(case, artifact, out, budget),
            None if limit is None else limit * MIB,
            env={**os.environ, "LATENTC_CACHE": cache},
            output=told,
        )
        told.seek(0)
        text = told.read().decode()
    if usage.status:
        print(text, file=sys.stderr)
    return Row(
        case.name,
        "latentc",
        limit,
        usage,
        "" if way is None else way.text,
        plan.taken,
        seconds=None if usage.status else seconds(text),
    )


def seconds(text: str) -> float | None:
    """Of opening and drawing, in what `latentc generate --json` printed, behind what went to stderr."""
    try:
        (picture,) = json.loads("[\n" + text.partition("\n[\n" if not text.startswith("[") else "[\n")[2])
    except ValueError:
        return None
    timings = picture["timings"]
    return float(timings["total"] + timings["opening"])


def forget(folder: Path) -> None:
    """Has the system drop what it keeps of the folder's files, so that a control group is charged for them anew."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in filter(Path.is_file, folder.rglob("*")):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(case: Case, artifact: Path, folder: Path, limits: bool = True) -> list[Row]:
    """The picture without a limit, and under each of the case's.

    Raises:
        LatentcError: no control group can be made here.
    """
    free = folder / f"{case.name}.png"
    rows = [drawn(case, artifact, free, None)]
    for limit in case.limits if limits else ():
        bounded = folder / f"{case.name}-{limit}.png"
        row = drawn(case, artifact, bounded, limit)
        if free.is_file() and bounded.is_file():
            row = replace(row, likeness=likeness(free, bounded))
        rows.append(row)
    return rows


def likeness(first: Path, second: Path) -> float:
    """dB between the pixels of two files of one size, infinite for the same; what made them is in them as text."""
    from PIL import Image

    pixels = []
    for file in (first, second):
        with Image.open(file) as picture:
            pixels.append(np.asarray(picture.convert("RGB"), np.float32) / 255)
    return psnr(*pixels)


def measure_peer(case: Case, model: Path, folder: Path, peer: str, loader: str, limits: bool = True) -> Row:
    """A peer's peak at the same picture in bf16, of its own export of the same model, without a limit.

    Args:
        limits: whether its export may take what is free and no more: else this machine would have nothing left.

    Raises:
        LatentcError: the export fails.
    """
    place = peers.python(peer)
    bits = case.quantize or "fp16"
    exported = folder / f"{case.model}-{bits}-optimum"
    if not exported.exists():
        most = available()
        done = memlimit.run(
            [
                *(str(peers.python("optimum-intel")), "-m", "optimum.commands.optimum_cli", "export"),
                *("openvino", "--task", "text-to-image", "--weight-format", bits),
                *PEER_OPTIONS.get(bits, ()),
                *("--model", str(model), str(exported)),
            ],
            most if limits else None,
            env=peers.environment(),
        )
        if done.status:
            shutil.rmtree(exported, ignore_errors=True)
            why = f"it takes more than {size(most)}" if done.killed else f"status {done.status}"
            raise LatentcError(f"optimum-intel does not export {model.name} in {bits}: {why}.")
    width, height = case.picture
    request = {
        "prompt": PROMPT,
        "steps": case.steps,
        "guidance": 7.5,
        "seed": 1,
        "width": width,
        "height": height,
        "type": "bf16",
    }
    draw = Path(peers.__file__).parent / "draw.py"
    out = folder / f"{case.name}-{peer}.npy"
    usage = memlimit.run(
        [str(place), str(draw), loader, str(exported), str(out), json.dumps(request)], env=peers.environment()
    )
    return Row(case.name, peer, None, usage)


def _artifact(case: Case, work: Path, limit: int | None, tell: Callable[[str], None]) -> tuple[Path, Path]:
    """The case's model and artifact, made unless they are there."""
    model, artifact = work / case.model, work / case.name
    if artifact.exists():
        return model, artifact
    if not model.exists():
        make(case.architecture, model, case.dtype, blocks=case.blocks, tell=tell)
    quantized = ["--quantize", case.quantize, "--pictures", "0"] if case.quantize else ["--precision", "bf16"]
    usage = memlimit.run(
        [
            *(*worker.command("latentc.cli:main"), "compile", str(model), str(artifact)),
            *("--target", "openvino", "--size", case.size, *quantized),
        ],
        None if limit is None else limit * MIB,
    )
    # A checker that the limit killed is told in the artifact, and the compile goes on; what failed leaves none.
    if not is_artifact(str(artifact)):
        raise LatentcError(f"compiling {case.name} failed with status {usage.status}.")
    tell(f"{case.name}: {size(sum(f.stat().st_size for f in artifact.rglob('*') if f.is_file()))}")
    return model, artifact


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[*CASES], help=f"of: {', '.join(CASES)}")
    parser.add_argument("--work", type=Path, help="keep models and artifacts here")
    parser.add_argument("--peers", action="store_true", help="measure OpenVINO GenAI and optimum-intel, too")
    parser.add_argument(
        "--limit",
        type=int,
        action="append",
        metavar="MIB",
        help="in the place of the cases' own; may be repeated",
    )
    parser.add_argument("--no-limits", action="store_true", help="measure without hard limits")
    parser.add_argument("--compile-limit", type=int, default=COMPILE_LIMIT, metavar="MIB")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - CASES.keys()):
        parser.error(f"there is no {', '.join(unknown)} (there are: {', '.join(CASES)})")
    limit = None if args.no_limits else args.compile_limit
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="latentc-memory-") as scratch:
        work = args.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        try:
            for name in args.names:
                case = replace(CASES[name], limits=tuple(args.limit or CASES[name].limits))
                model, artifact = _artifact(case, work, limit, lambda line: print(line, file=sys.stderr))
                rows += measure(case, artifact, Path(scratch), not args.no_limits)
                for peer, loader in PEERS.items() if args.peers else ():
                    try:
                        rows.append(measure_peer(case, model, work, peer, loader, not args.no_limits))
                    except LatentcError as error:
                        print(f"{case.name}, {peer}, not measured: {error}", file=sys.stderr)
        except LatentcError as error:
            sys.exit(f"Error: {error}")
        finally:
            print(table(rows))
    sys.exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    main()
