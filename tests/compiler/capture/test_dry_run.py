"""Runs of a pipeline at several points, and what a failed one means."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from PIL import Image

from artifacts.manifest import DimRange
from compiler.capture.arguments import Point
from compiler.capture.declared_sizes import SizeRange
from compiler.capture.dry_run import CannotRun, RefusedRequest
from tests.compiler.capture.test_made_visuals import runner

POINTS = (Point(2, 16, 24), Point(1, 16, 24, guided=False))


class Guides:
    """Joins the embeddings with and without a prompt, whether it has both or not."""

    components: ClassVar[dict[str, Any]] = {}

    def __init__(self, least: float = 1.5) -> None:
        self.least = least

    def set_progress_bar_config(self, **options: Any) -> None:
        pass

    def __call__(self, prompt: str, guidance_scale: float = 7.5) -> None:
        if guidance_scale < self.least:
            raise TypeError("expected Tensor as element 0.")


def test_a_pipeline_that_fails_without_guidance_is_captured_with_it():
    run = runner()
    run.all({"text-to-image": Guides()}, POINTS)
    assert run.notes == [
        "text-to-image: with guidance only, as Guides fails without (TypeError: expected Tensor as element 0)."
    ]
    run.all({"text-to-image": Guides(least=0)}, POINTS)
    assert run.notes == []


def test_a_pipeline_that_fails_with_guidance_cannot_be_captured():
    with pytest.raises(CannotRun, match="cannot be run at 24x16, batch 2"):
        runner().all({"text-to-image": Guides(least=9)}, POINTS)


class Eights(Guides):
    """Draws pictures whose sides are multiples of 8, with a number for its guidance."""

    def __call__(
        self, prompt: str, height: int, width: int, guidance_scale: float = 7.5, clip_skip: int = 0
    ) -> None:
        if height % 8 or width % 8:
            raise ValueError(f"`height` and `width` have to be divisible by 8 but are {height} and {width}.")
        if clip_skip:
            raise IndexError("tuple index out of range")


@pytest.mark.parametrize(
    ("low", "high", "hint"),
    [
        (33, 33, "The nearest sizes: --size 32x32, --size 40x40"),
        (33, 70, "Sizes are multiples of 8: --size 32..72"),
        (3, 8, "Sizes are multiples of 8: --size 8..8"),
    ],
)
def test_a_size_that_a_pipeline_refuses_is_a_wrong_request_with_the_nearest(low: int, high: int, hint: str):
    with pytest.raises(RefusedRequest, match="cannot be run at 33x33, batch 1: ValueError") as caught:
        runner().all({"text-to-image": Eights()}, (Point(1, 33, 33),))
    side = DimRange(min=low, max=high)
    caught.value.tell_of_range(SizeRange(side, side))
    assert (caught.value.exit_code, caught.value.hint) == (2, hint)
    assert isinstance(caught.value, CannotRun)


def test_an_argument_that_a_pipeline_refuses_is_a_wrong_request():
    run = runner(clip_skip=90)
    with pytest.raises(RefusedRequest, match="IndexError: tuple index out of range") as caught:
        run.all({"text-to-image": Eights()}, POINTS)
    assert caught.value.hint == "It runs without --arg clip_skip: give other values."
    assert run.recorder.calls == []


def test_arguments_without_which_it_fails_as_well_are_not_blamed():
    with pytest.raises(CannotRun, match="cannot be run at 24x16") as caught:
        runner(guidance_scale=3.0).all({"text-to-image": Guides(least=9)}, POINTS)
    assert not isinstance(caught.value, RefusedRequest) and caught.value.exit_code == 1


class Grid(Guides):
    """Takes rows of pictures."""

    def __call__(self, prompt: str, image: Any) -> None:
        raise TypeError(f"object of type '{type(image[0]).__name__}' has no len()")


def test_a_form_of_pictures_that_nobody_can_give_is_said_to_be_one():
    with pytest.raises(CannotRun, match="cannot be run at 24x16, batch 2: TypeError") as caught:
        runner().all({"text-to-image": Grid()}, POINTS)
    assert "given image in the forms" in caught.value.hint and "run it in PyTorch" in caught.value.hint
    assert "NAME=VALUE" not in caught.value.hint


class Draws(Guides):
    """Makes pictures `makes` times as large as it is told, which is `own` pixels by default."""

    def __init__(self, own: int, makes: float, least: int = 1) -> None:
        self.own, self.makes, self.least = own, makes, least
        self.told: list[int] = []

    def __call__(
        self, prompt: str, height: int | None = None, width: int | None = None, guidance_scale: float = 7.5
    ) -> Any:
        side = self.own if height is None else height
        self.told.append(side)
        if side % self.least:
            raise ValueError("not divisible")
        made = int(side * self.makes)
        return SimpleNamespace(images=[Image.new("RGB", (2 * made, made))])


@pytest.mark.parametrize(
    ("pipe", "height"),
    [
        (Draws(64, 1), 64),
        (Draws(64, 0.25), 64),  # told 16, it makes 4
        (Draws(64, 0.25, least=16), 64),
        (Draws(64, 0.25, least=64), 64),  # nor does it take 16 or 32
        (Draws(64, 0.0625, least=64), 64),
        (Draws(64, 4), 64),
        (Draws(96, 0.3, least=48), 28),  # by no factor that is known
    ],
)
def test_the_size_that_nobody_declares_is_what_the_pipeline_is_told_for_the_picture_it_draws(pipe, height):
    size, frames = runner().complete(pipe, None, None)
    assert (size.height, frames) == (DimRange(min=height, max=height), None)
    assert size.width.min == 2 * height


def test_a_pipeline_whose_default_size_is_what_it_draws_is_not_asked_again():
    class Plain(Draws):
        def __call__(self, prompt: str, height: int = 64, width: int = 128) -> Any:
            return super().__call__(prompt, height, width)

    pipe = Plain(64, 1)
    runner().complete(pipe, None, None)
    assert pipe.told == [64]
