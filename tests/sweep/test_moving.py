"""A video that a ControlNet steers: what is made on both runtimes, by the call and by `generate`, is PyTorch's.

Other videos are cases of test_breadth.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

import runtimes
import runtimes.generate_options
from artifacts.manifest import DimRange
from compiler.build import compile
from compiler.capture.declared_sizes import SizeRange
from compiler.compile_request import CompileRequest
from compiler.lowering.compile_cache import CompileCache
from tests.sweep import video
from tests.sweep.models import picture
from tests.sweep.test_sweep import graphs_once

__all__ = ["graphs_once"]  # a fixture

pytestmark = pytest.mark.slow

TARGETS = ("onnxruntime", "openvino")
TOLERANCE = 1e-3
SIDE, STEPS, SEED = 32, 2, 3
MANY = 12
"""Steps of the runs with forecasts."""

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One pipeline: how it is built, how many frames its videos have, what it is called with beside
    steps, size, frames and generator."""

    build: Callable[[], Any]
    frames: int
    arguments: Arguments


def _clip(frames: int) -> list[Any]:
    return [picture(SIDE, SIDE, seed) for seed in range(frames)]


_TEXT: Arguments = MappingProxyType({"prompt": "a large red circle"})

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "animatediff-controlnet": Case(
            video.animatediff_controlnet, 4, {**_TEXT, "conditioning_frames": _clip(4)}
        ),
    }
)


@dataclass(frozen=True)
class Model:
    """A case as a folder, PyTorch's result, and what the compiles for all targets have in common."""

    case: Case
    folder: Path
    result: np.ndarray
    compile_cache: CompileCache


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """Cases as they are needed; one at a time is kept."""
    return {}


def _called(pipe: Any, case: Case, steps: int = STEPS, **more: Any) -> np.ndarray:
    """float32 [videos, frames, height, width, 3]."""
    names = runtimes.generate_options.parameters(getattr(pipe, "diffusers", pipe))
    sizes = {"height": SIDE, "width": SIDE, "num_frames": case.frames}
    chosen = {name: value for name, value in sizes.items() if name in names}
    output = pipe(
        **case.arguments,
        **chosen,
        **more,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
    )
    return np.asarray(output.frames, np.float32)


def _accelerated(pipeline: Any, case: Case) -> None:
    """A run with forecast steps ends; a tolerance of 0 changes no bit."""
    whole, same, fast = (_called(pipeline, case, MANY, accelerate=tolerance) for tolerance in ("off", 0, 1e9))
    assert np.array_equal(whole, same) and np.isfinite(fast).all() and not np.array_equal(whole, fast)
    assert pipeline._count.made < pipeline._count.of - 2


def _model(models: dict[str, Model], name: str, folder: Path) -> Model:
    if name not in models:
        case = CASES[name]
        pipe = case.build()
        pipe.set_progress_bar_config(disable=True)
        pipe.save_pretrained(folder / name)
        models.clear()
        models[name] = Model(case, folder / name, _called(pipe, case), CompileCache())
    return models[name]


def _compile(model: Model, out: Path, target: str, frames: DimRange) -> Any:
    side = DimRange(min=SIDE, max=SIDE)
    return compile(
        CompileRequest(
            model=str(model.folder),
            out=out,
            target=target,
            precision="fp32",
            size=SizeRange(side, side),
            frames=frames,
            check="none",  # the video is the check here
        ),
        compile_cache=model.compile_cache,
    )


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("name", "target"), [(name, target) for name in CASES for target in TARGETS])
def test_compiled_and_run_it_is_pytorchs(
    name: str,
    target: str,
    models: dict[str, Model],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = _model(models, name, tmp_path_factory.getbasetemp())
    case, expected = model.case, model.result
    frames = DimRange(min=case.frames, max=case.frames)
    artifact = _compile(model, tmp_path / "out", target, frames)
    assert artifact.manifest.sizes.get("frames") == frames
    with runtimes.load(tmp_path / "out", device="cpu", cache=False) as pipeline:
        pipeline.set_progress_bar_config(disable=True)
        found = _called(pipeline, case)
        result = pipeline.generate(**case.arguments, steps=STEPS, seed=SEED)
        if target == TARGETS[0]:
            _accelerated(pipeline, case)
    assert found.shape == expected.shape
    error = _error(found, expected)
    assert error < TOLERANCE
    assert [len(clip) for clip in result.frames] == [case.frames]
    assert result.images == result.frames[0]
    drawn = np.stack([np.asarray(frame, np.float32) / 255 for frame in result.frames[0]])
    assert np.abs(drawn - expected[0]).max() < 2 / 255
