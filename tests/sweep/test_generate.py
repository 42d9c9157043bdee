"""`generate` on whole artifacts whose pipelines go about their steps in other ways than Stable Diffusion's.

Those that are compiled for one size are cases of test_breadth.py: DDIMPipeline, which has no prompt and no decoder.
"""

from __future__ import annotations

from collections.abc import Callable
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
from tests.sweep.models import CASES

STEPS = 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "size", "extra"),
    [pytest.param(CASES["dit"].build, 32, {"class_labels": [207]}, id="iterates-a-tensor-of-labels")],
)
def test_generate_draws_pytorchs_picture(
    build: Callable[[], Any], size: int, extra: dict[str, Any], tmp_path: Path
) -> None:
    pipe = build()
    pipe.save_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    span = DimRange(min=size, max=size)
    compile(
        CompileRequest(
            model=str(tmp_path / "model"),
            out=tmp_path / "out",
            target="onnxruntime",
            precision="fp32",
            size=SizeRange(width=span, height=span),
            check="none",
        )
    )
    generator = torch.Generator().manual_seed(3)
    expected = pipe(num_inference_steps=STEPS, generator=generator, output_type="np", **extra).images[0]
    with runtimes.load(tmp_path / "out", device="cpu", cache=False) as pipeline:
        result = pipeline.generate(steps=STEPS, seed=3, **extra)
    found = np.asarray(result.images[0], np.float32) / 255
    assert np.abs(found - expected).max() < 3 / 255
    assert len(result.timings.steps) == STEPS
