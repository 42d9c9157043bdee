"""Which pipeline does a task, for models of one stage and of two."""

from __future__ import annotations

import pytest

from artifacts.errors import UsageError
from compiler.capture.tasks import own_task, pipeline_for
from tests.sweep import flow, sd, unclip


def test_siblings_of_a_pipeline() -> None:
    pipe = sd.sd15()
    assert pipeline_for(pipe, "text-to-image") is pipe
    for task, name in (("image-to-image", "Img2Img"), ("inpaint", "Inpaint")):
        found = pipeline_for(pipe, task)
        assert type(found).__name__ == f"StableDiffusion{name}Pipeline"
        assert found.unet is pipe.unet


def test_a_decoder_has_decoders_for_siblings() -> None:
    pipe = unclip.kandinsky()
    found = pipeline_for(pipe, "image-to-image")
    assert type(found).__name__ == "KandinskyV22Img2ImgPipeline"
    assert own_task(type(found)) == "image-to-image"
    assert found.movq is pipe.movq


def test_no_sibling() -> None:
    with pytest.raises(UsageError, match="DiTPipeline"):
        pipeline_for(flow.dit(), "inpaint")
    with pytest.raises(UsageError, match="no task 'sing'"):
        pipeline_for(flow.dit(), "sing")
