"""`make demo`: the built-in model on every target, beside PyTorch, from the same seeds.

Compiles `shapes` into ./demo/TARGET, draws the same prompts with diffusers in PyTorch and with each artifact,
writes the pictures and a strip of them all, and prints one row for each: size on disk, seconds a picture, and
the PSNR to PyTorch's picture.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError
from artifacts.progress import Event

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

ROOT = Path(__file__).resolve().parents[1]
STRIP = ROOT / "docs" / "images" / "demo.png"

TARGETS = ("openvino", "onnxruntime")
PROMPTS = (
    "a large red circle at the left on a blue background",
    "a small yellow cross at the top on a black background",
    "a large green triangle at the right on a white background",
    "a small purple square at the bottom on a pink background",
    "a large orange cross in the center on a gray background",
)
SEED = 7
STEPS = 20
GUIDANCE = 3.0


@dataclass(frozen=True)
class Row:
    """One engine's pictures, in the order of `PROMPTS`.

    Attributes:
        disk: bytes on disk.
        seconds: for each picture, from call to picture; the first of an engine is drawn once before.
        psnr: dB to PyTorch's pictures; empty for PyTorch itself.
    """

    name: str
    disk: int
    seconds: tuple[float, ...]
    psnr: tuple[float, ...]
    pictures: tuple[Image, ...]


class Steps:
    """Prints what is begun, a line each: a progress that needs no terminal."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, event: Event) -> None:
        if event.task not in self._told:
            self._told.add(event.task)
            print(f"  {event.task}", file=sys.stderr, flush=True)


def pixels(picture: Image) -> np.ndarray:
    """float64 [height, width, 3], from 0 to 1."""
    import numpy as np

    return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


def timed(draw: Callable[[str], Image]) -> tuple[tuple[Image, ...], tuple[float, ...]]:
    """Pictures of all prompts and the seconds of each, after one that is not counted."""
    draw(PROMPTS[0])
    pictures, seconds = [], []
    for prompt in PROMPTS:
        start = time.perf_counter()
        pictures.append(draw(prompt))
        seconds.append(time.perf_counter() - start)
    return tuple(pictures), tuple(seconds)


def pytorch(model: Path) -> Row:
    """diffusers' own pipeline, in fp32."""
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    pipeline: Any = DiffusionPipeline.from_pretrained(model).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompt: str) -> Image:
        picture: Image = pipeline(
            prompt,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator("cpu").manual_seed(SEED),
        ).images[0]
        return picture

    pictures, seconds = timed(draw)
    disk = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
    return Row("PyTorch fp32", disk, seconds, (), pictures)


def compiled(target: str, out: Path, precision: str, reference: Row) -> Row:
    """The built-in model, compiled for `target` into `out`, and run."""
    from artifacts.manifest import DimRange
    from bench.interop import psnr
    from compiler.build import CompileRequest, compile
    from runtimes.pipeline import load

    artifact = compile(
        CompileRequest(
            model="shapes",
            out=out,
            target=target,
            precision=precision,
            batch=DimRange(min=1, max=1),
            force=True,
        ),
        Steps(),
    )
    with load(artifact.root) as pipeline:
        pictures, seconds = timed(
            lambda prompt: pipeline.generate(prompt, seed=SEED, steps=STEPS, guidance=GUIDANCE).images[0]
        )
    ratios = tuple(
        psnr(pixels(ours), pixels(theirs)) for ours, theirs in zip(pictures, reference.pictures, strict=True)
    )
    disk = sum(file.size for file in artifact.manifest.files)
    return Row(f"{target} {precision}", disk, seconds, ratios, pictures)


def strip(rows: Sequence[Row], scale: int = 2) -> Image:
    """All pictures in one: a row for each engine, a column for each prompt, names at the left."""
    from PIL import Image, ImageDraw, ImageFont

    side = rows[0].pictures[0].width * scale
    gap, label = 8, 150
    size = (label + (side + gap) * len(PROMPTS) + gap, (side + gap) * len(rows) + gap)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    for y, row in enumerate(rows):
        top = gap + y * (side + gap)
        pen.text((gap, top + side // 2), row.name, fill="black", font=font, anchor="lm")
        for x, picture in enumerate(row.pictures):
            large = picture.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(large, (label + x * (side + gap), top))
    return sheet


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, which is also what the README shows."""
    lines = [
        "| | size on disk | seconds a picture | PSNR to PyTorch, worst | equal pictures |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        worst = f"{min(row.psnr):.1f} dB" if row.psnr else "-"
        equal = sum(math.isinf(ratio) for ratio in row.psnr)
        shown = f"{equal} of {len(row.psnr)}" if row.psnr else "-"
        seconds = statistics.median(row.seconds)
        lines.append(f"| {row.name} | {row.disk / 1e6:.1f} MB | {seconds:.2f} | {worst} | {shown} |")
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where artifacts and pictures go")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp16")
    parser.add_argument("--target", action="append", help="of these targets only; may be repeated")
    parser.add_argument("--update-docs", action="store_true", help=f"also write {STRIP.relative_to(ROOT)}")
    given = parser.parse_args(args)
    from bench.reference import SHAPES_DIR

    # The libraries remark on what is not installed beside them.
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        print("PyTorch: drawing", flush=True)
        rows = [pytorch(SHAPES_DIR)]
        for target in given.target or TARGETS:
            print(f"{target}: compiling and drawing", flush=True)
            rows.append(compiled(target, out / target, given.precision, rows[0]))
    except LatentcError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    for row in rows:
        for number, picture in enumerate(row.pictures):
            picture.save(out / f"{row.name.split()[0].lower()}-{number}.png")
    sheet = strip(rows)
    sheet.save(out / "demo.png")
    if given.update_docs:
        STRIP.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(STRIP, optimize=True)
    print(f"\nshapes, {STEPS} steps, one seed, {len(PROMPTS)} prompts; pictures: {out / 'demo.png'}\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
