"""`python -m bench.project.gpu_check`: everything that only an NVIDIA GPU can tell, in one run and one JSON.

PyTorch, ONNX Runtime on CUDA and TensorRT draw the same pictures from the same seeds, for the built-in model and for
one of Stable Diffusion 1.5's size (random weights): how far each is from PyTorch in fp32, and the milliseconds of a
step. What cannot run here is "not measured", with the reason; that is no failure. Exit status 1 when something that
should run does not, or is wrong.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from artifacts.errors import LatentcError
from bench.environment import environment

if TYPE_CHECKING:
    from runtimes.generation import Generator

PROMPT = "a large red circle at the left on a blue background"
MODELS = ("shapes", "sd15")
STEPS = 8
ROUNDS = 5
LIMIT = 0.05
"""Of the last latents' norm: by how much fp16 may be off after `STEPS` steps."""

# (steps) -> the last latents [1, channels, height, width] in float32, and the seconds of each step.
Draw = Callable[[int], "tuple[Any, tuple[float, ...]]"]


@dataclass(frozen=True)
class Engine:
    """One way to run a model.

    Attributes:
        name: in the JSON.
        precision: of its weights. ONNX Runtime computes in fp32 with them, PyTorch and TensorRT in their type.
        target: what is compiled; empty for PyTorch itself.
        options: the target's own.
    """

    name: str
    precision: Literal["fp32", "fp16"]
    target: str = ""
    options: tuple[tuple[str, str], ...] = ()


REFERENCE = Engine("PyTorch fp32", "fp32")
ENGINES = (
    Engine("PyTorch fp16", "fp16"),
    Engine("ONNX Runtime, weights in fp16", "fp16", "onnxruntime"),
    Engine("TensorRT fp16", "fp16", "tensorrt", (("gpu", "current"),)),
)


@dataclass(frozen=True)
class EngineResult:
    """What one engine did with one model.

    Attributes:
        measured: whether there are figures.
        reason: why not.
        failed: whether that is a failure.
        error: ``||latents - PyTorch's in fp32|| / ||PyTorch's in fp32||`` after the last step.
        step_ms: median, least and most milliseconds of a step; first steps are left out.
    """

    measured: bool
    reason: str = ""
    failed: bool = False
    error: float | None = None
    step_ms: tuple[float, float, float] | None = None

    def __str__(self) -> str:
        if not self.measured:
            return f"{'FAILED' if self.failed else 'not measured'}: {self.reason}"
        error = "" if self.error is None else f"error {self.error:.1e}"
        assert self.step_ms is not None
        return f"{self.step_ms[0]:.2f} ms a step ({self.step_ms[1]:.2f} to {self.step_ms[2]:.2f}); {error}"


def lacks(engine: Engine, device: str) -> str:
    """What this machine lacks to run it; empty when nothing."""
    from runtimes.sessions import session_table as sessions
    from targets import target_table as targets

    if device == "cuda" and (reason := _no_gpu()):
        return reason
    if not engine.target:
        return ""
    availability = targets.get(engine.target).available()
    if not availability.ok:
        return f"{availability.reason}; run: {availability.install}"
    names = [d.name for d in sessions.get(engine.target).devices()]
    return (
        ""
        if device in names
        else f"{engine.target} has no device '{device}' here (there are: {', '.join(names)})"
    )


def _no_gpu() -> str:
    try:
        import torch
    except ImportError as error:
        return f"PyTorch cannot be imported: {error}"
    return "" if torch.cuda.is_available() else "PyTorch sees no NVIDIA GPU here"


def check(models: tuple[str, ...], work: Path, device: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measures every engine with every model; see `EngineResult` for what comes back.

    Args:
        device: "cuda"; "cpu" tries the script itself.
    """
    result: dict[str, dict[str, Any]] = {}
    missing = {engine: lacks(engine, device) for engine in (REFERENCE, *ENGINES)}
    for name in models:
        result[name] = {}
        wanted = None
        for engine, reason in missing.items():
            if reason or (wanted is None and engine is not REFERENCE):
                row = EngineResult(False, reason or f"{REFERENCE.name} was not measured")
            else:
                row, latents = _measured(engine, _model(name, work, tell), work, device, wanted)
                wanted = latents if engine is REFERENCE else wanted
            tell(f"{name}, {engine.name}: {row}")
            result[name][engine.name] = asdict(row)
    return result


def _measured(engine: Engine, model: str, work: Path, device: str, wanted: Any) -> tuple[EngineResult, Any]:
    import numpy as np

    from compiler.evidence.metrics import relative_error

    try:
        draw, close = (_artifact if engine.target else _torch)(engine, model, work, device)
        try:
            draw(2)
            latents, _ = draw(STEPS)
            seconds = [s for _ in range(ROUNDS) for s in draw(3)[1][1:]]
        finally:
            close()
    except (LatentcError, RuntimeError, OSError) as error:
        return EngineResult(False, " ".join(str(error).split()), failed=True), None
    times = (1000 * statistics.median(seconds), 1000 * min(seconds), 1000 * max(seconds))
    if not np.isfinite(latents).all():
        return EngineResult(False, "its latents are not finite", True, None, times), None
    off = None if wanted is None else relative_error(latents, wanted)
    if off is not None and not off <= LIMIT:
        return EngineResult(False, f"error {off:.1e}, at most {LIMIT} is allowed", True, off, times), None
    return EngineResult(True, error=off, step_ms=times), latents


def _model(name: str, work: Path, tell: Callable[[str], None]) -> str:
    """What `latentc compile` takes: a built-in name, or the folder of a model that is made when first asked for."""
    from bench.project.full_size.make import make
    from bench.project.full_size.published import PUBLISHED

    if name not in PUBLISHED:
        return name
    if not (work / name / "model_index.json").exists():
        make(PUBLISHED[name], work / name, tell=tell)
    return str(work / name)


def _torch(engine: Engine, model: str, work: Path, device: str) -> tuple[Draw, Callable[[], None]]:
    import torch

    from compiler.source import open_model
    from runtimes import reference

    source = open_model(model)
    pipeline = reference.load(source.root, precision=engine.precision, variant=source.variant)
    pipeline.diffusers.to(device)

    def close() -> None:
        pipeline.diffusers.to("meta")
        if device == "cuda":
            torch.cuda.empty_cache()

    return _draw(pipeline), close


def _artifact(engine: Engine, model: str, work: Path, device: str) -> tuple[Draw, Callable[[], None]]:
    from compiler.build import compile
    from compiler.compile_request import CompileRequest
    from runtimes.pipeline import load

    out = work / f"{Path(model).name}-{engine.target}"
    options = dict(engine.options)
    compile(
        CompileRequest(model, out, engine.target, engine.precision, check="none", options=options, force=True)
    )
    pipeline = load(out, device=device, cache=False)
    return _draw(pipeline), pipeline.close


def _draw(pipeline: Generator) -> Draw:
    from bench.drawing_engines import Latents

    latents = Latents(pipeline.diffusers)

    def draw(steps: int) -> tuple[Any, tuple[float, ...]]:
        # Kernels are queued: a step is over when the scheduler's sample has been fetched, as `Latents` does.
        with latents.kept():
            result = pipeline.generate(PROMPT, seed=0, steps=steps, output_type="latent")
        return _last(latents), result.timings.steps

    return draw


def _last(latents: Any) -> Any:
    stacked = latents.stacked()
    if stacked is None:
        raise LatentcError("the pipeline's scheduler returned nothing to compare.")
    return stacked[-1]


def gpus() -> list[dict[str, Any]]:
    """The NVIDIA GPUs that PyTorch sees."""
    if _no_gpu():
        return []
    import torch

    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {"name": p.name, "capability": f"sm{p.major}{p.minor}", "memory": p.total_memory} for p in properties
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.project.gpu_check", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="|".join(MODELS), help="of these only (default: all)")
    parser.add_argument(
        "--work", type=Path, help="where models and artifacts are kept (default: a temporary folder)"
    )
    parser.add_argument("--out", type=Path, help="the JSON file (default: standard output)")
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try the script itself"
    )
    args = parser.parse_args()
    if unknown := sorted(set(args.models) - set(MODELS)):
        parser.error(f"there is no {', '.join(unknown)} (there are: {', '.join(MODELS)}).")
    with tempfile.TemporaryDirectory(prefix="latentc-gpu-") as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        models = tuple(args.models) or MODELS
        results = check(models, work, args.device, lambda line: print(line, file=sys.stderr, flush=True))
    machine = environment(False).model_dump(mode="json")
    text = json.dumps(
        {"machine": machine, "gpus": gpus(), "device": args.device, "models": results}, indent=2
    )
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if any(row["failed"] for rows in results.values() for row in rows.values()) else 0)


if __name__ == "__main__":
    main()
