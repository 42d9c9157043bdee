"""The judge of trained adapters: it reads what is drawn as asked, and sees where the adapter did nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bench.project.reference import adapter_judge, adapter_scenes
from bench.project.reference.adapter_judge import OWN
from bench.project.reference.trained_adapters import ADAPTERS, TrainedAdapter
from bench.reference.judge import filled, largest_region
from bench.reference.shape_scenes import IDEAL, Caption, Placement, draw, split

CAPTION = Caption("large", "red", "circle", "left", "white")

adapters = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)


@adapters
def test_what_is_drawn_as_asked_is_right_in_all_attributes(adapter: TrainedAdapter) -> None:
    requests = adapter.requests(40)
    pictures = [adapter.draw(request.caption, IDEAL) for request in requests]
    assert set(adapter.shares(pictures, requests).values()) == {1.0}


@adapters
def test_what_the_model_draws_by_itself_is_seen(adapter: TrainedAdapter) -> None:
    requests = adapter.requests(40)
    # A ControlNet that does nothing leaves what the prompt says.
    said = {caption.text: caption for caption in split()[1]}
    pictures = [draw(said.get(request.prompt, request.caption)) for request in requests]
    # Black on white is gray by itself.
    assert adapter.shares(pictures, requests)[OWN] <= 0.3


@adapters
def test_an_empty_picture_is_nothing(adapter: TrainedAdapter) -> None:
    verdict = adapter.judge(Image.new("RGB", (64, 64), "white"), CAPTION)
    assert {name for name, right in verdict.items() if right} <= {"background"}


def test_half_an_outline_is_none() -> None:
    whole = adapter_scenes.outline(CAPTION)
    half = whole.copy()
    half.paste((255, 255, 255), (0, 0, 20, 64))
    assert adapter_judge.outline(whole, CAPTION)[OWN]
    verdict = adapter_judge.outline(half, CAPTION)
    assert not verdict[OWN] and verdict["colour"] and verdict["background"]


def test_an_outline_that_is_filled_with_another_colour_is_none() -> None:
    picture = draw(CAPTION)
    picture.paste((40, 80, 220), (12, 26, 24, 38))
    assert not adapter_judge.outline(picture, CAPTION)[OWN]


def test_another_shade_is_another_colour() -> None:
    pixels = np.asarray(adapter_scenes.gray(CAPTION)).astype(int)
    darker = Image.fromarray((pixels * 0.8).astype(np.uint8))
    assert adapter_judge.gray(darker, CAPTION) == {
        OWN: True,
        "size": True,
        "shape": True,
        "position": True,
        "colour": True,
        "background": False,
    }


def test_a_small_coloured_shape_makes_a_gray_picture_none() -> None:
    caption = Caption("small", "red", "circle", "left", "gray")
    assert adapter_judge.gray(adapter_scenes.gray(caption), caption)[OWN]
    assert not adapter_judge.gray(draw(caption), caption)[OWN]


@pytest.mark.parametrize("colour", ["red", "orange"])
def test_the_neighbours_of_the_ninth_colour_are_not_it(colour: str) -> None:
    caption = Caption("large", colour, "square", "top", "white")
    verdict = adapter_judge.ninth_colour(draw(caption), caption)
    assert not verdict.pop(OWN) and all(verdict.values())


def test_a_shape_beside_the_edges_does_not_follow_them() -> None:
    assert adapter_judge.edges(draw(CAPTION, Placement(dx=2.0)), CAPTION)[OWN]
    assert not adapter_judge.edges(draw(CAPTION, Placement(dx=9.0)), CAPTION)[OWN]


def test_holes_are_filled_and_bays_are_not() -> None:
    ring = np.zeros((64, 64), dtype=np.bool_)
    ring[10:30, 10:30] = True
    ring[14:26, 14:26] = False
    region = largest_region(ring)
    assert region is not None and filled(region).sum() == 400
    ring[10:14, 18:20] = False
    assert filled(ring).sum() == ring.sum()


@adapters
def test_requests_are_of_held_out_captions(adapter: TrainedAdapter) -> None:
    requests = adapter.requests(100)
    assert len(requests) == 100 and requests == adapter.requests(100)
    training = {caption.text for caption in split()[0]}
    assert not training & {request.prompt for request in requests}


def test_edges_say_another_size_shape_or_place_than_the_prompt() -> None:
    (edges,) = (adapter for adapter in ADAPTERS if adapter.kind == "controlnet")
    said = {caption.text: caption for caption in split()[1]}
    for request in edges.requests(100):
        prompt, shown = said[request.prompt], request.caption
        assert (prompt.colour, prompt.background) == (shown.colour, shown.background)
        assert prompt.shape != shown.shape and prompt.position != shown.position
