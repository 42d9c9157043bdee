"""Sizes within a range that a model's code does not take are told, by the artifact and by what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts.errors import UsageError
from artifacts.manifest import DimRange
from compiler import build
from compiler.capture.declared_sizes import SizeRange
from compiler.compiled_manifest import in_steps
from runtimes.generate_options import check_range
from tests.compiler.made import request

SIDES = DimRange(min=256, max=1024)


@pytest.mark.parametrize(
    ("dims", "step"),
    [
        ({"height": DimRange(min=32, max=128, step=8)}, 64),
        ({"height_2": DimRange(min=32, max=128, step=8)}, 64),
        ({"height": DimRange(min=32, max=128)}, 1),
        ({"width": DimRange(min=32, max=128, step=8)}, 1),
        ({"height": DimRange(min=32, max=127, step=5)}, 1),  # in no unit of a picture's
        ({"height": DimRange(min=64, max=64, step=8)}, 1),
        ({"heights": DimRange(min=32, max=128, step=8)}, 1),
    ],
)
def test_a_graphs_steps_are_a_pictures(dims: dict[str, DimRange], step: int) -> None:
    sizes = in_steps({"height": SIDES, "width": SIDES}, [dims, {}])
    assert sizes["height"].step == step
    assert sizes["width"].step == (64 if "width" in dims else 1)


def test_all_graphs_take_what_is_declared() -> None:
    graphs = [{"height": DimRange(min=32, max=128, step=step)} for step in (4, 6)]
    assert in_steps({"height": SIDES}, graphs)["height"].step == 96
    frames = in_steps({"frames": DimRange(min=9, max=25)}, [{"frames": DimRange(min=3, max=7, step=2)}])
    assert frames["frames"] == DimRange(min=9, max=25, step=8)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(256, (256,)), (320, (320,)), (300, (256, 320)), (1023, (960, 1024)), (5, (256,)), (2000, (1024,))],
)
def test_the_nearest_sizes(size: int, nearest: tuple[int, ...]) -> None:
    sides = SIDES.model_copy(update={"step": 64})
    assert sides.nearest(size) == nearest and (size in sides) == (nearest == (size,))


def test_a_size_between_is_refused_with_the_nearest() -> None:
    sizes = {"width": SIDES.model_copy(update={"step": 64})}
    check_range("a width of", 320, sizes, "width")
    with pytest.raises(
        UsageError, match=r"for a width of 256 to 1024 in steps of 64; found a width of 300"
    ) as refused:
        check_range("a width of", 300, sizes, "width")
    assert "The nearest: 256 and 320." in refused.value.hint
    with pytest.raises(UsageError, match="found a width of 1088") as refused:
        check_range("a width of", 1088, sizes, "width")
    assert "--size MIN..MAX" in refused.value.hint


@pytest.fixture
def of_four_levels(tmp_path: Path) -> Any:
    """Stable Diffusion whose UNet halves its latents three times."""
    from tests.sweep import sd

    pipe = sd.sd15()
    pipe.unet = sd.unet(
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "model")
    return pipe


@pytest.mark.slow
@pytest.mark.usefixtures("one_checker")
def test_an_artifact_draws_its_steps_and_refuses_what_is_between(of_four_levels: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from runtimes.pipeline import load

    span = DimRange(min=32, max=64)
    size = SizeRange(width=span, height=span)
    tasks = ("text-to-image", "image-to-image")
    model = str(tmp_path / "model")
    artifact = build.compile(request(tmp_path / "out", model=model, tasks=tasks, size=size))
    assert {artifact.manifest.sizes[side].text for side in ("width", "height")} == {"32..64 in steps of 16"}
    with load(artifact.root, cache=False) as pipeline:
        result = pipeline.generate("a", steps=2, seed=1, size=(48, 64))
        with pytest.raises(UsageError, match="in steps of 16; found a width of 40"):
            pipeline.generate("a", steps=2, seed=1, size=(40, 64))
        with pytest.raises(
            UsageError, match="width of 32..64 in steps of 16; the one that is asked for lies between"
        ):
            pipeline("a", num_inference_steps=2, width=40, height=64)
    with load(artifact.root, task="image-to-image", cache=False) as pipeline:
        with pytest.raises(UsageError, match="in steps of 16"):
            pipeline.generate("a", image=Image.new("RGB", (40, 64)), steps=2, seed=1)
        with pytest.raises(UsageError, match="left with no step") as refused:
            little = {"image": Image.new("RGB", (48, 64)), "steps": 4, "strength": 0.01}
            pipeline.generate("a", seed=1, scheduler="DDIMScheduler", **little)
    assert "more strength" in refused.value.hint
    noise = torch.Generator().manual_seed(1)
    theirs = of_four_levels("a", num_inference_steps=2, generator=noise, width=48, height=64).images[0]
    assert np.abs(np.asarray(result.images[0], np.int16) - np.asarray(theirs, np.int16)).max() <= 2
