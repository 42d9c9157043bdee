"""Every pipeline of `tests.sweep.breadth`: compiled once for both runtimes, drawn by the call and by `generate`.

`LATENTC_UPDATE_DOCS=1` writes the table that the run measured to docs/sweep.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import runtimes
from artifacts.manifest import DimRange
from compiler.build import compile
from compiler.capture.declared_sizes import SizeRange
from compiler.compile_request import CompileRequest
from compiler.lowering.compile_cache import CompileCache
from runtimes.generate_options import SYNONYMS, parameters
from tests.sweep import table
from tests.sweep.breadth import CASES, Case
from tests.sweep.exports import exported_once

pytestmark = pytest.mark.slow

TARGETS = ("onnxruntime", "openvino")
TOLERANCE = 1e-3
SEED = 3
STEPS = 12
"""Of the runs with forecasts."""

ACCELERATED = frozenset({"animatediff", "animatediff-video"})
"""Cases that are also run with forecasts: of videos, and of videos that are made of others."""

_OURS = {name: option for option, names in SYNONYMS.items() for name in names}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small take PyTorch ten times as long on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with exported_once():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, tuple[str, ...]]]:
    """Case -> its pipeline's class and the errors, as the docs show them."""
    measured: dict[str, tuple[str, ...]] = {}
    yield measured
    if os.environ.get("LATENTC_UPDATE_DOCS") == "1":
        table.write_breadth(measured, TARGETS)


def built(case: Case) -> Any:
    """The case's pipeline; with the diffusers of Python 3.10, tests of what that does not have are skipped."""
    try:
        return case.build()
    except (AttributeError, ImportError) as error:
        if sys.version_info < (3, 11) and "diffusers" in str(error):
            pytest.skip(str(error))
        raise


def keywords(case: Case, pipe: Any) -> dict[str, Any]:
    """Arguments of the pipeline's own call, but for the generator."""
    known = parameters(pipe)
    values: dict[str, Any] = {
        "height": case.size,
        "width": case.size,
        "num_frames": case.frames,
        "video_length": case.frames,
        "num_inference_steps": case.steps,
        "output_type": case.output_type,
    }
    return {name: value for name, value in values.items() if value and name in known} | dict(case.arguments)


def called(case: Case, pipe: Any, call: Any) -> np.ndarray:
    """What a call returns in the field that is compared."""
    torch.manual_seed(SEED)  # as `generate` does, for noise that does not come from the generator
    output = call(**keywords(case, pipe), generator=torch.Generator().manual_seed(SEED))
    return array(getattr(output, case.output, None) if case.output != "frames" else frames(output))


def frames(output: Any) -> Any:
    return output["frames"] if "frames" in output else output["images"]


def generated(case: Case, pipeline: runtimes.Pipeline) -> np.ndarray:
    """The same from `generate`."""
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    for name, value in keywords(case, pipeline.diffusers).items():
        option = _OURS.get(name, name)
        options[name if option in ("width", "height", "seed") or option in options else option] = value
    width, height = options.pop("width", None), options.pop("height", None)
    result = pipeline.generate(**options, seed=SEED, size=None if width is None else (width, height))
    outputs: Mapping[str, Any] = result.outputs
    return array(frames(outputs) if case.output == "frames" else outputs[case.output])


def array(value: Any) -> np.ndarray:
    if isinstance(value, (list, tuple)):
        value = np.stack([array(item) for item in value])
    return np.asarray(value.detach() if hasattr(value, "detach") else value, np.float32)


def error(result: np.ndarray, expected: np.ndarray) -> float:
    """Relative to the norm of what is expected; one video of a batch of one is that batch."""
    assert result.size == expected.size, (result.shape, expected.shape)
    return float(np.linalg.norm(result.ravel() - expected.ravel()) / np.linalg.norm(expected))


def check_forecasts(case: Case, pipeline: runtimes.Pipeline) -> None:
    """A run with forecast steps ends; a tolerance of 0 changes no bit."""
    longer = replace(case, steps=STEPS)
    every, same, fast = (
        called(longer, pipeline.diffusers, partial(pipeline, accelerate=tolerance))
        for tolerance in ("off", 0, 1e9)
    )
    assert np.array_equal(every, same) and np.isfinite(fast).all() and not np.array_equal(every, fast)
    calls = pipeline._count
    assert calls is not None and calls.made < calls.of - 2


@pytest.mark.parametrize("name", CASES)
def test_compiled_and_run_it_is_pytorchs(name: str, rows: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    case, cache = CASES[name], CompileCache()
    pipe = built(case)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "model")
    expected = called(case, pipe, pipe)
    assert np.isfinite(expected).all() and expected.std() > 1e-3
    side = DimRange(min=case.size, max=case.size)
    errors: dict[str, float] = {}
    for target in TARGETS:
        compile(
            CompileRequest(
                model=str(tmp_path / "model"),
                out=tmp_path / target,
                target=target,
                precision="fp32",
                size=SizeRange(side, side) if case.size else None,
                frames=DimRange(min=case.frames, max=case.frames) if case.frames else None,
                check="none",  # the picture is the check here
                arguments=dict(case.compiled_with),
            ),
            compile_cache=cache,
        )
        with runtimes.load(tmp_path / target, device="cpu", cache=False) as pipeline:
            pipeline.set_progress_bar_config(disable=True)
            assert type(pipeline.diffusers) is type(pipe)
            by_call = error(called(case, pipeline.diffusers, pipeline), expected)
            by_generate = error(generated(case, pipeline), expected)
            if target == TARGETS[0] and name in ACCELERATED:
                check_forecasts(case, pipeline)
        errors[target] = max(by_call, by_generate)
    rows[name] = (type(pipe).__name__, *(f"{value:.0e}" for value in errors.values()))
    assert all(value < TOLERANCE for value in errors.values()), errors


def test_the_docs_list_every_case() -> None:
    if os.environ.get("LATENTC_UPDATE_DOCS") == "1":
        pytest.skip("they are being written")
    assert table.breadth_rows() == sorted(CASES)
