"""Pipelines whose call needs another one first: which one is found by what methods set and the error says."""

from types import SimpleNamespace
from typing import Any

import pytest

from artifacts.errors import LatentcError
from compiler.capture.arguments import Point
from compiler.capture.calls_before import call_before
from tests.compiler.capture.test_made_visuals import Pipe, runner


class Inverts(Pipe):
    """Edits what it inverted before."""

    start: Any = None

    def invert(self, image: Any) -> None:
        self.start = image

    def tidy(self) -> None:
        self.rest = None

    def __call__(self, prompt: str) -> Any:
        if self.start is None:
            raise ValueError("The `invert` method has to be called beforehand.")
        return self.start


class Tiles:
    """An autoencoder that decodes in tiles alone."""

    def enable_tiling(self) -> None: ...


def test_a_method_that_sets_what_the_call_reads():
    assert (
        call_before(Inverts, {}, ValueError("The `invert` method has to be called beforehand.")) == "invert"
    )
    assert call_before(Inverts, {}, AttributeError("'Inverts' object has no attribute 'start'")) == "invert"
    assert call_before(Inverts, {}, ValueError("call `tidy` or check your prompt")) == ""
    assert call_before(Inverts, {}, ValueError("a prompt is too long")) == ""


def test_a_switch_of_a_component():
    error = NotImplementedError("Decoding without tiling has not been implemented yet.")
    assert call_before(Pipe, {"scheduler": SimpleNamespace(), "vae": Tiles()}, error) == "vae.enable_tiling"
    assert call_before(Pipe, {"vae": Tiles()}, NotImplementedError("no")) == ""


def test_diffusers_own():
    pytest.importorskip("diffusers")
    from diffusers import LEditsPPPipelineStableDiffusion, StableDiffusionImg2ImgPipeline

    words = "You need to invert an input image first. The `invert` method has to be called beforehand."
    assert call_before(LEditsPPPipelineStableDiffusion, {}, ValueError(words)) == "invert"
    assert call_before(StableDiffusionImg2ImgPipeline, {}, ValueError("`image` is not of a type")) == ""


def test_the_compile_says_so():
    with pytest.raises(LatentcError, match=r"Inverts wants its 'invert' called before") as caught:
        runner()._call(Inverts(), "text-to-image", Point(1, 8, 8), 0)
    assert "in PyTorch" in caught.value.hint
