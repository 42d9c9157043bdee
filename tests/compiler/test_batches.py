"""An artifact for several pictures at once draws as many as it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import runtimes
from artifacts.errors import UsageError
from artifacts.manifest import DimRange
from compiler.build import compile
from compiler.capture.declared_sizes import SizeRange
from compiler.compile_request import CompileRequest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_checker")]

PROMPT = "a large red circle"


@pytest.mark.parametrize(("low", "high", "images"), [(2, 2, 4), (2, 3, 5)])
def test_pictures_of_a_batch_that_begins_above_one(
    sd15: Path, tmp_path: Path, low: int, high: int, images: int
) -> None:
    from diffusers import StableDiffusionPipeline

    side = DimRange(min=32, max=32)
    request = CompileRequest(
        model=str(sd15),
        out=tmp_path / "out",
        target="onnxruntime",
        precision="fp32",
        size=SizeRange(side, side),
        batch=DimRange(min=low, max=high),
    )
    compile(request)
    reference = StableDiffusionPipeline.from_pretrained(sd15)
    seeds = [torch.Generator("cpu").manual_seed(7 + i) for i in range(images)]
    given = {"num_inference_steps": 2, "output_type": "np"}
    expected = reference(PROMPT, generator=seeds, num_images_per_prompt=images, **given).images
    with runtimes.load(tmp_path / "out", device="cpu", cache=False) as pipeline:
        found = pipeline.generate(PROMPT, seed=7, steps=2, images=images).images
        prompts = pipeline.diffusers([PROMPT] * low, num_inference_steps=1, output_type="np").images
        with pytest.raises(UsageError, match="cannot be made so"):
            pipeline.generate(PROMPT, steps=2)
    assert len(prompts) == low
    assert np.abs(np.stack([np.asarray(picture) / 255 for picture in found]) - expected).max() < 0.01
