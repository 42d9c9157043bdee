"""Are the artifacts' pictures PyTorch's? ``python -m bench.quality``

Compiles the built-in model for each target in each precision, draws held-out prompts from the same seeds as
PyTorch in fp32, and prints one row for each artifact: bytes, PSNR (worst and mean) and prompt accuracy. Exits
with 1 where a picture is further from PyTorch's than `LIMITS` allows, or accuracy by more than a point.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange

if TYPE_CHECKING:
    from PIL.Image import Image

LIMITS: dict[str, float] = {"fp32": 60.0, "fp16": 50.0, "bf16": 40.0}
"""Lowest PSNR of any picture, in dB, by precision."""

ACCURACY_LOSS = 0.01
TARGETS = ("onnxruntime", "openvino")
BATCH = 10


@dataclass(frozen=True)
class Row:
    """One artifact. `bytes` on disk, PSNR in dB (infinite where the pictures are equal), accuracy from 0 to 1."""

    target: str
    precision: str
    bytes: int
    worst_psnr: float
    mean_psnr: float
    accuracy: float


def measure(
    target: str,
    precision: str,
    folder: Path,
    reference: Sequence[Image],
    prompts: Sequence[Any],
    guidance: float,
) -> Row:
    """Compiles and draws with one artifact.

    Args:
        reference: PyTorch's picture of each of `prompts` (`bench.reference.drawing.Caption`).
    """
    from bench.demo import pixels
    from bench.interop import psnr
    from bench.reference.judge import prompt_accuracy
    from compiler.build import CompileRequest, compile
    from runtimes.pipeline import load

    request = CompileRequest(
        model="shapes",
        out=folder / f"{target}-{precision}",
        target=target,
        precision=precision,
        batch=DimRange(min=1, max=BATCH),
        check="full",
    )
    artifact = compile(request)
    with load(artifact.root) as pipeline:
        pictures = draw(pipeline.diffusers, [caption.text for caption in prompts], guidance)
    ratios = [psnr(pixels(a), pixels(b)) for a, b in zip(pictures, reference, strict=True)]
    finite = [ratio for ratio in ratios if math.isfinite(ratio)]
    return Row(
        target,
        precision,
        sum(file.size for file in artifact.manifest.files),
        min(ratios),
        statistics.fmean(finite) if finite else math.inf,
        prompt_accuracy(pictures, prompts),
    )


def draw(pipeline: Any, prompts: Sequence[str], guidance: float) -> list[Image]:
    """20 steps each, picture `i` from seed `i`."""
    import torch

    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Image] = []
    for start in range(0, len(prompts), BATCH):
        group = list(prompts[start : start + BATCH])
        seeds = [torch.Generator("cpu").manual_seed(start + i) for i in range(len(group))]
        pictures += pipeline(group, num_inference_steps=20, guidance_scale=guidance, generator=seeds).images
    return pictures


def main(args: Sequence[str] | None = None) -> int:
    """Runs the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--prompts", type=int, default=200, help="how many of the held-out prompts")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--precision", action="append", choices=tuple(LIMITS))
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(args)
    from bench.reference import SHAPES_DIR
    from bench.reference.drawing import split
    from bench.reference.folder import load_pipeline
    from bench.reference.judge import prompt_accuracy

    prompts = split()[1][: given.prompts]
    reference = draw(load_pipeline(SHAPES_DIR), [caption.text for caption in prompts], given.guidance)
    own = prompt_accuracy(reference, prompts)
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory(prefix="latentc-quality-") as folder:
            for target in given.target or TARGETS:
                for precision in given.precision or tuple(LIMITS):
                    print(f"{target} {precision}: compiling and drawing", file=sys.stderr, flush=True)
                    rows.append(measure(target, precision, Path(folder), reference, prompts, given.guidance))
    except LatentcError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    if given.json:
        print(json.dumps({"pytorch_accuracy": own, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(table(rows, own, len(prompts)))
    good = [
        row.worst_psnr >= LIMITS[row.precision] and abs(row.accuracy - own) <= ACCURACY_LOSS for row in rows
    ]
    return 0 if all(good) else 1


def table(rows: Sequence[Row], own: float, prompts: int) -> str:
    """Markdown, at most 100 columns."""
    lines = [
        f"shapes, {prompts} held-out prompts, 20 steps; prompt accuracy of PyTorch in fp32: {own:.1%}",
        "",
        "| target | precision | size on disk | PSNR, worst | mean | prompt accuracy |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.target} | {row.precision} | {row.bytes / 1e6:.1f} MB | {row.worst_psnr:.1f} dB "
        f"| {row.mean_psnr:.1f} dB | {row.accuracy:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
