"""Are the artifacts' pictures PyTorch's? ``python -m bench.project.quality``

Compiles the built-in model for each target in each precision, benches them all on held-out prompts, and prints
one row for each artifact: bytes, PSNR (worst and of all) and prompt accuracy. Exits with 1 where a picture is
further from PyTorch's than `LIMITS` allows, or accuracy by more than a point.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange
from bench import markdown_tables
from bench.gates import check, parse
from bench.record import Bench, Variant

LIMITS: dict[str, float] = {"fp32": 60.0, "fp16": 50.0, "bf16": 40.0}
"""Lowest PSNR of any picture, in dB, by what weights are stored in and by what is computed in: the lower counts."""

ACCURACY_LOSS = 0.01
TARGETS = ("onnxruntime", "openvino")


def measure(targets: Sequence[str], precisions: Sequence[str], prompts: int, guidance: float) -> Bench:
    """Compiles every pair and benches them against PyTorch on the first `prompts` held-out prompts."""
    from bench.bench_request import BenchRequest, bench, require
    from bench.reference.shape_scenes import split
    from compiler.build import compile
    from compiler.compile_request import CompileRequest
    from compiler.lowering.compile_cache import CompileCache

    require()
    captures = CompileCache()
    with tempfile.TemporaryDirectory(prefix="latentc-quality-") as folder:
        artifacts = []
        for target in targets:
            for precision in precisions:
                print(f"{target} {precision}: compiling", file=sys.stderr, flush=True)
                out = Path(folder) / f"{target}-{precision}"
                compile(
                    CompileRequest(
                        model="shapes",
                        out=out,
                        target=target,
                        precision=precision,
                        batch=DimRange(min=1, max=1),
                        check="full",
                    ),
                    compile_cache=captures,
                )
                artifacts.append(str(out))
        print("drawing", file=sys.stderr, flush=True)
        request = BenchRequest(
            artifacts=tuple(artifacts),
            reference="shapes",
            prompts=tuple(caption.text for caption in split()[1][:prompts]),
            seeds=1,
            guidance=guidance,
        )
        return bench(request, ["python", "-m", "bench.project.quality", *sys.argv[1:]]).bench


def limit(variant: Variant) -> float:
    """The lowest PSNR, in dB, that a picture of an artifact may have."""
    kinds = (variant.about["precision"], variant.about.get("compute", "").partition(" ")[0])
    return min(LIMITS[kind] for kind in kinds if kind in LIMITS)


def short(bench: Bench) -> list[str]:
    """The gates that artifacts fail.

    Raises:
        LatentcError: there is nothing to hold them to.
    """
    own = _own(bench)
    failed = []
    for variant in bench.variants[1:]:
        limits = [
            f"psnr_worst<{limit(variant)}",
            f"prompt_accuracy<{max(0.0, own - ACCURACY_LOSS):.6f}",
            f"prompt_accuracy>{own + ACCURACY_LOSS:.6f}",
        ]
        pair = bench.model_copy(update={"variants": (bench.variants[0], variant)})
        failed += [
            f"{fall.variant}: {fall.gate.text}" for fall in check(pair, [parse(text) for text in limits])
        ]
    return failed


def _own(bench: Bench) -> float:
    """PyTorch's prompt accuracy."""
    reference = bench.variants[0]
    accuracy = reference.quality.prompt_accuracy if reference.quality else None
    if accuracy is None or accuracy.value is None:
        why = reference.error or (accuracy.reason if accuracy else "") or "not measured"
        raise LatentcError(f"PyTorch's own pictures cannot be judged: {why}.")
    return accuracy.value


def main(args: Sequence[str] | None = None) -> int:
    """Runs the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project.quality", description=__doc__)
    parser.add_argument("--prompts", type=int, default=200, help="how many of the held-out prompts")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--precision", action="append", choices=tuple(LIMITS))
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--json", action="store_true", help="print the bench's record")
    options = parser.parse_args(args)
    try:
        record = measure(
            options.target or TARGETS, options.precision or tuple(LIMITS), options.prompts, options.guidance
        )
        failed = short(record)
    except LatentcError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(record.model_dump_json(indent=2) if options.json else table(record))
    for line in failed:
        print(f"Fell short: {line}", file=sys.stderr)
    return 1 if failed else 0


def table(bench: Bench) -> str:
    """Markdown, at most 100 columns."""
    about = (
        f"shapes, {len(bench.settings.prompts)} held-out prompts, {bench.settings.steps} steps; "
        f"prompt accuracy of PyTorch in fp32: {_own(bench):.1%}"
    )
    figures = ("size on disk", "PSNR, worst", "of all", "prompt accuracy")
    names = ("target", "weights", "computes in", *figures)
    return f"{about}\n\n{markdown_tables.table(names, map(_cells, bench.variants[1:]), right=figures)}"


def _cells(variant: Variant) -> tuple[str, ...]:
    quality = variant.quality

    def shown(value: float | None, form: str) -> str:
        return "not measured" if value is None else form.format(value)

    return (
        variant.about["target"],
        variant.about["precision"],
        variant.about.get("compute", "-"),
        f"{variant.bytes / 1e6:.1f} MB",
        shown(quality.psnr.worst if quality else None, "{:.1f} dB"),
        shown(quality.psnr.value if quality else None, "{:.1f} dB"),
        shown(quality.prompt_accuracy.value if quality else None, "{:.1%}"),
    )


if __name__ == "__main__":
    raise SystemExit(main())
