"""What a pipeline's call needs beside its prompt, told by diffusers' own signatures."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

from artifacts.manifest import DimRange
from runtimes.conditions import Needs, condition_arguments, needs


def pipe(name: str, **components: Any) -> Any:
    """One with the call of a pipeline of diffusers, and these components."""
    call = getattr(diffusers, name).__call__
    return type("Made", (), {"__call__": call, "components": components})()


def several() -> Any:
    return MultiControlNetModel([torch.nn.Identity(), torch.nn.Identity()])


@pytest.mark.parametrize(
    ("name", "image", "mask", "controls"),
    [
        ("StableDiffusionPipeline", False, False, 0),
        ("StableDiffusionImg2ImgPipeline", True, False, 0),
        ("StableDiffusionInpaintPipeline", True, True, 0),
        ("StableDiffusionInstructPix2PixPipeline", True, False, 0),
        ("StableDiffusionUpscalePipeline", True, False, 0),
        ("StableDiffusionControlNetPipeline", False, False, 1),
        ("StableDiffusionControlNetImg2ImgPipeline", True, False, 1),
        ("StableDiffusionControlNetInpaintPipeline", True, True, 1),
        ("StableDiffusionXLControlNetPipeline", False, False, 1),
        ("StableDiffusionAdapterPipeline", False, False, 1),
        ("FluxControlPipeline", False, False, 1),
        ("FluxPipeline", False, False, 0),
    ],
)
def test_pictures_are_told_by_the_signature(name: str, image: bool, mask: bool, controls: int) -> None:
    assert needs(pipe(name), {}) == Needs(image, mask, controls, 0, "")


def test_several_models_need_a_picture_each() -> None:
    made = pipe("StableDiffusionControlNetPipeline", controlnet=several())
    wanted = needs(made, {})
    assert wanted.controls == 2
    assert condition_arguments(made, ["a", "b"], (), 3) == {"image": ["a", "b"]}
    assert wanted.lack(2, 0) is None
    for controls, adapters, name in (
        (0, 0, "control_image"),
        (1, 0, "control_image"),
        (2, 1, "ip_adapter_image"),
    ):
        lack = wanted.lack(controls, adapters)
        assert lack is not None and lack[1] == name and name in lack[0]


def test_pictures_have_the_pipeline_s_own_names() -> None:
    one = pipe("StableDiffusionControlNetPipeline")
    assert condition_arguments(one, ["a"], ["b"], 3) == {"image": "a", "ip_adapter_image": ["b"]}
    start = pipe("StableDiffusionControlNetImg2ImgPipeline")
    assert condition_arguments(start, ["a"], (), 1) == {"control_image": "a"}
    adapter = pipe("StableDiffusionAdapterPipeline")
    assert condition_arguments(adapter, ["a"], (), 1) == {"image": "a"}
    assert condition_arguments(adapter, ["a"], (), 2) == {"image": ["a", "a"]}
    assert condition_arguments(one, (), (), 2) == {}


@pytest.mark.parametrize(
    "name", ["KandinskyV22ControlnetPipeline", "KandinskyV22Pipeline", "PaintByExamplePipeline"]
)
def test_an_argument_that_is_none_of_ours_is_named(name: str) -> None:
    assert "which no request can give" in needs(pipe(name), {}).other
    assert needs(pipe(name), {}).lack(0, 0) is not None


def test_videos_are_not_single_pictures() -> None:
    made = pipe("TextToVideoSDPipeline")
    assert "videos of 16 frames" in needs(made, {}).other
    assert "videos of 8 frames" in needs(made, {"frames": DimRange(min=8, max=8)}).other
    assert needs(made, {"frames": DimRange(min=1, max=1)}).other == ""


def test_an_ip_adapter_needs_its_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimes.ip_adapters.count", lambda pipe: 2)
    wanted = needs(pipe("StableDiffusionPipeline"), {})
    assert wanted.ip_adapters == 2 and not wanted.other
    lack = wanted.lack(0, 0)
    assert lack is not None and lack[1] == "ip_adapter_image"
    assert "takes no 'ip_adapter_image'" in needs(pipe("StableDiffusionUpscalePipeline"), {}).other
