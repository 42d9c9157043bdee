"""`python -m bench.project.run_memory [NAME...]`: what drawing with models of published sizes takes under hard limits.

Each model has random weights, is compiled for OpenVINO, and draws one picture twice: without a limit, and under one
that counts the page cache, too (`bench.project.memlimit`). The pictures must be equal. With --peers, OpenVINO GenAI and
optimum-intel draw the same, their peaks beside ours. Exits with 1 where a picture differs or a process is killed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts import worker
from artifacts.errors import LatentcError
from bench import markdown_tables
from bench.project import memlimit, peers
from bench.project.full_size.make import make
from bench.project.full_size.published import PUBLISHED
from bench.project.memlimit import MIB, Usage

PROMPT = "a large red circle at the left on a blue background"

HEADROOM = 0.9
"""The part of a hard limit that the plan is given: page cache and the processes' own pages are in the rest."""


@dataclass(frozen=True)
class Case:
    """One model under one limit.

    Attributes:
        model: a name in `PUBLISHED`.
        quantize: as `latentc compile --quantize`; empty for none.
        limit: of the process that draws, in MiB.
    """

    model: str
    quantize: str
    size: str
    steps: int
    limit: int

    @property
    def name(self) -> str:
        """Of its row and its artifact."""
        return f"{self.model}-{self.quantize or 'bf16'}"


CASES = {
    case.name: case
    for case in (
        Case("sd15", "", "512x512", 2, 3072),
        Case("sd15", "int4", "512x512", 2, 2048),
        Case("sdxl", "int8", "1024x1024", 1, 4608),
        Case("flux", "int4", "512x512", 1, 6144),
    )
}


@dataclass(frozen=True)
class Row:
    """What one process took."""

    case: str
    who: str
    limit: int | None
    usage: Usage
    equal: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether it drew, and the picture is that without a limit where that is known."""
        return self.usage.status == 0 and self.equal is not False


def command(case: Case, artifact: Path, out: Path, memory: int | None, tile: str = "auto") -> list[str]:
    """What draws the case's picture."""
    limited = [] if memory is None else ["--memory", str(memory)]
    return [
        *(*worker.command("latentc.cli:main"), "generate", str(artifact), PROMPT, "-o", str(out)),
        *("--steps", str(case.steps), "--seed", "1", "--size", case.size, "--tile", tile, *limited),
    ]


def measure(case: Case, artifact: Path, folder: Path, limits: bool = True) -> list[Row]:
    """The picture without a limit, and under the case's.

    Raises:
        LatentcError: no control group can be made here.
    """
    free, bounded = folder / f"{case.name}.png", folder / f"{case.name}-limited.png"
    rows = [Row(case.name, "latentc", None, memlimit.run(command(case, artifact, free, None)))]
    if not limits:
        return rows
    limit = case.limit * MIB
    usage = memlimit.run(command(case, artifact, bounded, int(limit * HEADROOM)), limit)
    equal = free.is_file() and bounded.is_file() and same_picture(free, bounded)
    return [*rows, Row(case.name, "latentc", case.limit, usage, equal)]


def same_picture(first: Path, second: Path) -> bool:
    """Whether two files hold the same pixels; what made them is in them as text, and differs."""
    from PIL import Image

    pixels = []
    for file in (first, second):
        with Image.open(file) as picture:
            pixels.append(np.asarray(picture))
    return pixels[0].shape == pixels[1].shape and bool((pixels[0] == pixels[1]).all())


def measure_peer(case: Case, model: Path, folder: Path, peer: str, loader: str) -> Row:
    """A peer's peak at the same picture, of its own export of the same model, without a limit."""
    place = peers.python(peer)
    exported = folder / f"{case.model}-{case.quantize or 'fp16'}-{peer}"
    bits = {"": "fp16"}.get(case.quantize, case.quantize)
    if not exported.exists():
        subprocess.run(
            [
                *(str(peers.python("optimum-intel")), "-m", "optimum.commands.optimum_cli", "export"),
                *("openvino", "--task", "text-to-image", "--weight-format", bits),
                *("--model", str(model), str(exported)),
            ],
            check=True,
        )
    width, height = map(int, case.size.split("x"))
    request = {
        "prompt": PROMPT,
        "steps": case.steps,
        "guidance": 7.5,
        "seed": 1,
        "width": width,
        "height": height,
    }
    draw = Path(peers.__file__).parent / "draw.py"
    out = folder / f"{case.name}-{peer}.npy"
    usage = memlimit.run([str(place), str(draw), loader, str(exported), str(out), json.dumps(request)])
    return Row(case.name, peer, None, usage)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""

    def mib(count: int | None) -> str:
        return "not known" if count is None else f"{count // MIB:,} MiB"

    def outcome(row: Row) -> str:
        if row.usage.killed:
            return "killed"
        if row.usage.status:
            return f"failed ({row.usage.status})"
        return {None: "drawn", True: "equal", False: "differs"}[row.equal]

    return markdown_tables.table(
        ("model", "", "hard limit", "picture", "largest process", "wall"),
        [
            (
                row.case,
                row.who,
                "none" if row.limit is None else f"{row.limit:,} MiB",
                outcome(row),
                mib(row.usage.resident),
                f"{row.usage.seconds:.0f} s",
            )
            for row in rows
        ],
    )


def _artifact(case: Case, work: Path) -> tuple[Path, Path]:
    """The case's model and artifact, made unless they are there."""
    model, artifact = work / case.model, work / case.name
    if not model.exists():
        make(PUBLISHED[case.model], model, tell=print)
    if not artifact.exists():
        quantized = (
            ["--quantize", case.quantize, "--pictures", "0"] if case.quantize else ["--precision", "bf16"]
        )
        subprocess.run(
            [
                *(*worker.command("latentc.cli:main"), "compile", str(model), str(artifact)),
                *("--target", "openvino", "--size", case.size, *quantized),
            ],
            check=True,
        )
    return model, artifact


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[*CASES], help=f"of: {', '.join(CASES)}")
    parser.add_argument("--work", type=Path, help="keep models and artifacts here")
    parser.add_argument("--peers", action="store_true", help="measure OpenVINO GenAI and optimum-intel, too")
    parser.add_argument("--no-limits", action="store_true", help="measure without hard limits")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - CASES.keys()):
        parser.error(f"there is no {', '.join(unknown)} (there are: {', '.join(CASES)})")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="latentc-memory-") as scratch:
        work = args.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        try:
            for case in map(CASES.__getitem__, args.names):
                model, artifact = _artifact(case, work)
                rows += measure(case, artifact, Path(scratch), not args.no_limits)
                if args.peers:
                    rows.append(measure_peer(case, model, work, "openvino-genai", "Text2ImagePipeline"))
                    rows.append(measure_peer(case, model, work, "optimum-intel", "OVDiffusionPipeline"))
        except LatentcError as error:
            sys.exit(f"Error: {error}")
    print(table(rows))
    sys.exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    main()
