"""What each weight scheme costs the built-in model: ``python -m bench.project.quantization``

Compiles `shapes` for each target with each scheme, for the UNet alone and for every component, draws held-out
prompts from the same seeds as PyTorch in fp32, and prints one row for each artifact: bytes, bits a weight, PSNR,
SSIM, prompt accuracy and milliseconds a step, the steps of all artifacts taken in turns. Exits with 1 where a
scheme is further from PyTorch's pictures than `LIMITS` allows, or files are larger than their bits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange, Manifest
from bench import markdown_tables

if TYPE_CHECKING:
    from PIL.Image import Image

    from compiler.lowering.compile_cache import CompileCache
    from runtimes.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[2]
SHEET = ROOT / "docs" / "images" / "quantization.png"
TARGETS = ("openvino", "onnxruntime")
SPECS = (
    "",
    "unet=int8",
    "unet=int4",
    "unet=int4:group=32",
    "unet=int4:asymmetric",
    "unet=int4:low_rank=16",
    "unet=int4:method=awq",
    "unet=int4:method=scale-estimation",
    "unet=int4:method=gptq",
    "unet=nf4",
    "unet=int8-activations",
    "unet=int8-activations:bits=8",
    "int8",
    "int4",
    "auto=int4",
    "nf4",
    "auto=nf4",
)
AUTO = "auto="
"""In front of another spec: `--quantize auto` with that artifact's bytes for its budget."""

AUTO_GAIN = 3.0
"""dB that auto is better at equal bytes."""

LIMITS: dict[str, float] = {
    "": 50.0,
    "unet=int8": 52.0,
    "unet=int4": 36.0,
    "unet=nf4": 36.0,
    "unet=int8-activations": 44.0,
}
"""Lowest mean PSNR in dB."""

ACCURACY_LOSS = 0.02
"""Of the schemes that have a limit."""

SIZE_MARGIN = 0.03
"""How much larger than its tensors an OpenVINO file of weights may be. ONNX files align each tensor to a page,
which this model's small tensors show and others do not."""

ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One artifact.

    Attributes:
        bytes: of the whole artifact on disk.
        bits: a quantized weight, scales and corrections included; None where nothing is quantized.
        weights: bytes of all tensors, as the manifest has them.
        data: bytes of the files that hold them.
        psnr, worst_psnr, ssim: beside PyTorch's pictures; equal pictures count as 100 dB.
        accuracy: 0 to 1.
        step_ms: median milliseconds of a denoising step of one picture.
    """

    target: str
    spec: str
    bytes: int
    bits: float | None
    weights: int
    data: int
    psnr: float
    worst_psnr: float
    ssim: float
    accuracy: float
    step_ms: float


@dataclass(frozen=True)
class Drawn:
    """An artifact with its pictures, before its steps are timed."""

    target: str
    spec: str
    root: Path
    manifest: Manifest
    pictures: tuple[Image, ...]


def build(
    target: str,
    spec: str,
    out: Path,
    prompts: Sequence[str],
    guidance: float,
    compile_cache: CompileCache,
    drawn: Sequence[Drawn] = (),
) -> Drawn:
    """Compiles and draws. `drawn` has the artifact whose bytes `auto` is to keep to."""
    from bench.project.reference.batched_drawing import BATCH, draw
    from compiler import auto
    from compiler.build import compile
    from compiler.compile_request import CompileRequest
    from runtimes.pipeline import load

    request = CompileRequest(
        model="shapes",
        out=out,
        target=target,
        batch=DimRange(min=1, max=BATCH),
        quantize="" if spec.startswith(AUTO) else spec,
        pictures=8 if spec.startswith(AUTO) else 0,
    )
    if spec.startswith(AUTO):
        like = next(
            drawing
            for drawing in drawn
            if (drawing.target, drawing.spec) == (target, spec.removeprefix(AUTO))
        )
        limit = sum(file.size for file in like.manifest.files)
        artifact = auto.compile(request, auto.Budget(max_bytes=limit), compile_cache=compile_cache)
    else:
        artifact = compile(request, compile_cache=compile_cache)
    # What a scheme costs, without the rounding of a type.
    with load(artifact.root, cache=False, compute="fp32") as pipeline:
        pictures = draw(pipeline, prompts, guidance)
    return Drawn(target, spec, artifact.root, artifact.manifest, pictures)


def step_times(drawn: Sequence[Drawn], prompt: str, guidance: float) -> list[float]:
    """Median milliseconds of a step for each artifact, all of them open and taken in turns."""
    from runtimes.pipeline import load

    pipelines: list[Pipeline] = []
    seconds: list[list[float]] = [[] for _ in drawn]
    try:
        for artifact in drawn:
            pipelines.append(load(artifact.root, cache=False, compute="fp32"))
            pipelines[-1].generate(prompt, seed=0, steps=2, guidance=guidance)
        for _ in range(ROUNDS):
            for pipeline, times in zip(pipelines, seconds, strict=True):
                result = pipeline.generate(prompt, seed=0, steps=10, guidance=guidance)
                times += result.timings.steps[1:]
    finally:
        for pipeline in pipelines:
            pipeline.close()
    return [statistics.median(times) * 1000 for times in seconds]


def row(drawn: Drawn, reference: Sequence[Image], captions: Sequence[Any], step_ms: float) -> Row:
    """The figures of one artifact."""
    from bench.project.reference.batched_drawing import pixels
    from bench.reference.judge import prompt_accuracy
    from compiler.evidence.metrics import psnr, ssim
    from compiler.evidence.quantized_pictures import EQUAL

    pairs = [(pixels(a), pixels(b)) for a, b in zip(drawn.pictures, reference, strict=True)]
    ratios = [min(psnr(*pair), EQUAL) for pair in pairs]
    quantized = [weight for graph in drawn.manifest.graphs for weight in graph.weights]
    count = sum(weight.parameters for weight in quantized)
    return Row(
        target=drawn.target,
        spec=drawn.spec,
        bytes=sum(file.size for file in drawn.manifest.files),
        bits=8 * sum(weight.bytes for weight in quantized) / count if count else None,
        weights=sum(sum(graph.schemes.values()) for graph in drawn.manifest.graphs),
        data=sum(f.size for f in drawn.manifest.files if f.path.endswith((".bin", ".onnx_data"))),
        psnr=statistics.fmean(ratios),
        worst_psnr=min(ratios),
        ssim=statistics.fmean(ssim(*pair) for pair in pairs),
        accuracy=prompt_accuracy(drawn.pictures, captions),
        step_ms=step_ms,
    )


def failures(rows: Sequence[Row], own: float) -> list[str]:
    """What is not as it should be, one line each."""
    lines = []
    for r in rows:
        name = f"{r.target} {r.spec or 'fp16'}"
        limit = LIMITS.get(r.spec)
        if limit is not None and not r.psnr >= limit:
            lines.append(f"{name}: mean PSNR {r.psnr:.1f} dB, at least {limit:.0f} wanted")
        if limit is not None and not own - r.accuracy <= ACCURACY_LOSS:
            lines.append(f"{name}: prompt accuracy {r.accuracy:.1%}, PyTorch's is {own:.1%}")
        like = [o for o in rows if (o.target, AUTO + o.spec) == (r.target, r.spec)]
        if like and not r.psnr >= like[0].psnr + AUTO_GAIN:
            lines.append(f"{name}: {r.psnr:.1f} dB, {like[0].spec} has {like[0].psnr:.1f} at the same size")
        if r.target == "openvino" and r.data > r.weights * (1 + SIZE_MARGIN):
            lines.append(f"{name}: {r.data} bytes of weights, {r.weights} by their bits")
    return lines


def takes(target: str, spec: str) -> bool:
    """Whether the target has the methods that the spec names."""
    from compiler.quantize.recipe import Choice, read
    from targets import target_table

    if not spec or spec.startswith(AUTO):
        return True
    named = {method for component in read(spec).components.values() for method in Choice(component).methods}
    return named <= target_table.get(target).requirements.methods


def table(rows: Sequence[Row], own: float, prompts: int) -> str:
    """Markdown, at most 120 columns."""
    about = f"`shapes`, {prompts} held-out prompts, 20 steps; prompt accuracy of PyTorch in fp32: {own:.1%}"
    figures = ("on disk", "bits a weight", "PSNR, mean", "worst", "SSIM", "accuracy", "ms a step")
    return f"{about}\n\n{markdown_tables.table(('target', '`--quantize`', *figures), map(_cells, rows), figures)}"


def _cells(row: Row) -> tuple[str, ...]:
    name = f"`{row.spec}`" if row.spec else "(fp16)"
    if row.spec.startswith(AUTO):
        name = f"`auto`, size of `{row.spec.removeprefix(AUTO)}`"
    return (
        row.target,
        name,
        f"{row.bytes / 1e6:.2f} MB",
        "-" if row.bits is None else f"{row.bits:.2f}",
        f"{row.psnr:.1f} dB",
        f"{row.worst_psnr:.1f}",
        f"{row.ssim:.4f}",
        f"{row.accuracy:.1%}",
        f"{row.step_ms:.1f}",
    )


def sheet(drawn: Sequence[Drawn], reference: Sequence[Image]) -> Image:
    """Five prompts as PyTorch and as each of the artifacts draws them."""
    from bench.project import demo

    rows = {"PyTorch fp32": tuple(reference[:5]), **{d.spec or "fp16": d.pictures[:5] for d in drawn}}
    return demo.strip(rows)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project.quantization", description=__doc__)
    parser.add_argument(
        "--prompts", type=int, default=200, help="how many of the held-out prompts (5 or more)"
    )
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--spec", action="append", help="of these only; may be repeated")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--update-docs", action="store_true", help=f"also write {SHEET.relative_to(ROOT)}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(args)
    from bench.project.reference.batched_drawing import BATCH, draw
    from bench.reference import SHAPES_DIR
    from bench.reference.judge import prompt_accuracy
    from bench.reference.shape_scenes import split
    from compiler.lowering.compile_cache import CompileCache
    from runtimes.reference import load

    captions = split()[1][: max(5, options.prompts)]
    prompts = [caption.text for caption in captions]
    reference = draw(load(SHAPES_DIR, batch=BATCH), prompts, options.guidance)
    own = prompt_accuracy(reference, captions)
    drawn: list[Drawn] = []
    captures = CompileCache()
    try:
        with tempfile.TemporaryDirectory(prefix="latentc-quantization-") as folder:
            for target in options.target or TARGETS:
                specs = options.spec or [spec for spec in SPECS if takes(target, spec)]
                for number, spec in enumerate(specs):
                    print(f"{target} {spec or 'fp16'}: compiling and drawing", file=sys.stderr, flush=True)
                    out = Path(folder) / f"{target}-{number}"
                    drawn.append(build(target, spec, out, prompts, options.guidance, captures, drawn))
            times = step_times(drawn, prompts[0], options.guidance)
    except LatentcError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    rows = [row(artifact, reference, captions, ms) for artifact, ms in zip(drawn, times, strict=True)]
    if options.update_docs:
        first = [artifact for artifact in drawn if artifact.target == drawn[0].target]
        sheet(first, reference).save(SHEET, optimize=True)
    failed = failures(rows, own)
    if options.json:
        print(
            json.dumps(
                {"pytorch_accuracy": own, "rows": [asdict(r) for r in rows], "failures": failed}, indent=2
            )
        )
    else:
        print(table(rows, own, len(captions)))
    for line in failed:
        print(f"FAILS: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
