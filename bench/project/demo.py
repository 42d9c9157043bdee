"""`make demo`: the built-in model on every target, beside PyTorch, from the same seeds.

Compiles `shapes` into ./demo/TARGET, draws the same prompts with diffusers in PyTorch and with each artifact,
writes the pictures and a strip of them all, and prints one row for each: size on disk, seconds a picture, and
the PSNR to PyTorch's picture.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange
from artifacts.precisions import PRECISIONS
from artifacts.progress import Event
from bench import markdown_tables
from runtimes.quiet import quiet_libraries

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.interleaved_run import Outcome
    from bench.record import Bench, Variant

ROOT = Path(__file__).resolve().parents[2]
STRIP = ROOT / "docs" / "images" / "demo.png"

TARGETS = ("openvino", "onnxruntime")
PROMPTS = (
    "a large red circle at the left on a blue background",
    "a small yellow cross at the top on a black background",
    "a large green triangle at the right on a white background",
    "a small purple square at the bottom on a pink background",
    "a large orange cross at the center on a gray background",
)
SEED = 7
STEPS = 20
GUIDANCE = 3.0


class Steps:
    """Prints what is begun, a line each: a progress that needs no terminal."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def __call__(self, event: Event) -> None:
        if event.task not in self._printed:
            self._printed.add(event.task)
            print(f"  {event.task}", file=sys.stderr, flush=True)


def measure(targets: Sequence[str], out: Path, precision: str, command: Sequence[str]) -> Outcome:
    """Compiles the built-in model for each of `targets` into `out` and benches it against PyTorch."""
    from bench.bench_request import BenchRequest, bench, require
    from compiler.build import compile
    from compiler.compile_request import CompileRequest
    from compiler.lowering.compile_cache import CompileCache

    require()
    steps, captures = Steps(), CompileCache()
    for target in targets:
        print(f"{target}: compiling", flush=True)
        request = CompileRequest(
            model="shapes",
            out=out / f"{target}-{precision}",
            target=target,
            precision=precision,
            batch=DimRange(min=1, max=1),
            force=True,
        )
        compile(request, steps, compile_cache=captures)
    wanted = BenchRequest(
        artifacts=tuple(str(out / f"{target}-{precision}") for target in targets),
        reference="shapes",
        prompts=PROMPTS,
        steps=STEPS,
        seeds=1,
        first_seed=SEED,
        guidance=GUIDANCE,
    )
    print("drawing in turn", flush=True)
    return bench(wanted, command, steps)


def pictures(outcome: Outcome) -> dict[str, tuple[Image, ...]]:
    """Each variant's pictures, in the order of `PROMPTS`."""
    from PIL import Image

    return {
        name: tuple(Image.fromarray(shot.image) for shot in shots) for name, shots in outcome.shots.items()
    }


def strip(rows: dict[str, tuple[Image, ...]], scale: int = 2) -> Image:
    """All pictures in one: a row for each variant, a column for each prompt, names at the left."""
    from PIL import Image, ImageDraw, ImageFont

    side = next(iter(rows.values()))[0].width * scale
    font = ImageFont.load_default(16)
    gap = 8
    label = max(150, 2 * gap + math.ceil(max(font.getlength(name) for name in rows)))
    size = (label + (side + gap) * len(PROMPTS) + gap, (side + gap) * len(rows) + gap)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for y, (name, row) in enumerate(rows.items()):
        top = gap + y * (side + gap)
        pen.text((gap, top + side // 2), name, fill="black", font=font, anchor="lm")
        for x, picture in enumerate(row):
            large = picture.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(large, (label + x * (side + gap), top))
    return sheet


def table(bench: Bench) -> str:
    """A Markdown table, which is also what the README shows."""
    figures = ("size on disk", "seconds a picture", "PSNR to PyTorch, worst", "equal pictures")
    return markdown_tables.table(["", *figures], map(_cells, bench.variants), right=figures)


def _cells(variant: Variant) -> tuple[str, ...]:
    size = f"{variant.bytes / 1e6:.1f} MB"
    if variant.speed is None or variant.quality is None:
        return variant.name, size, f"not measured: {variant.error}", "-", "-"
    psnr, equal = variant.quality.psnr, variant.quality.equal.value
    worst = "-" if psnr.worst is None else f"{psnr.worst:.1f} dB"
    count = len(variant.pictures)
    shown = "-" if equal is None else f"{round(equal * count)} of {count}"
    seconds = f"{variant.speed.image_s.median:.2f}"
    return variant.name, size, seconds, worst, shown


def main(args: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where artifacts and pictures go")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16")
    parser.add_argument("--target", action="append", help="of these targets only; may be repeated")
    parser.add_argument("--update-docs", action="store_true", help=f"also write {STRIP.relative_to(ROOT)}")
    options = parser.parse_args(args)
    quiet_libraries()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        outcome = measure(
            options.target or TARGETS,
            out,
            options.precision,
            ["python", "-m", "bench.project.demo", *(args or sys.argv[1:])],
        )
    except LatentcError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    rows = pictures(outcome)
    for row, drawn in rows.items():
        for number, picture in enumerate(drawn):
            picture.save(out / f"{row.split()[0].lower()}-{number}.png")
    sheet = strip(rows)
    sheet.save(out / "demo.png")
    if options.update_docs:
        STRIP.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(STRIP, optimize=True)
    print(f"\nshapes, {STEPS} steps, one seed, {len(PROMPTS)} prompts; pictures: {out / 'demo.png'}\n")
    print(table(outcome.bench))
    return 1 if any(variant.quality is None for variant in outcome.bench.variants) else 0


if __name__ == "__main__":
    raise SystemExit(main())
