"""The vocabulary, the split and the drawings of the reference model."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from bench.reference.shape_scenes import (
    CENTRE,
    HELD_OUT,
    PALETTE,
    RADIUS,
    SHAPES,
    Caption,
    Placement,
    all_captions,
    draw,
    jitter,
    split,
)

RED_CIRCLE = Caption("large", "red", "circle", "left", "blue")


def test_a_caption_reads_as_a_prompt() -> None:
    assert RED_CIRCLE.text == "a large red circle at the left on a blue background"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("huge", "red", "circle", "left", "blue"), "'huge' is not one of: small, large"),
        (("large", "red", "circle", "left", "red"), "'red' is not one of"),
        (("large", "blue", "circle", "left", "blue"), "a blue shape cannot be seen on a blue background"),
    ],
)
def test_what_cannot_be_drawn_cannot_be_said(words: tuple[str, str, str, str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Caption(*words)


def test_captions_are_distinct() -> None:
    captions = all_captions()
    assert len(captions) == len({caption.text for caption in captions}) == 2040


def test_held_out_captions_are_never_drawn_in_training() -> None:
    training, held_out = split()
    assert len(held_out) == HELD_OUT
    assert not set(training) & set(held_out)
    assert set(training) | set(held_out) == set(all_captions())


def test_the_split_is_the_one_the_weights_were_trained_on() -> None:
    text = "\n".join(caption.text for caption in split()[1])
    assert hashlib.sha256(text.encode()).hexdigest() == HELD_OUT_DIGEST


HELD_OUT_DIGEST = "21cfcdd309b3ff203372440db2e32abb0cb1e33fdd4a9724cbd0b6b69d97e710"


def test_training_has_every_word_and_every_pair_of_words() -> None:
    training, held_out = split()

    def pairs(caption: Caption) -> set[tuple[str, str]]:
        words = [
            f"{name}:{getattr(caption, name)}"
            for name in ("size", "colour", "shape", "position", "background")
        ]
        return {(one, other) for one in words for other in words if one < other}

    seen = set().union(*(pairs(caption) for caption in training))
    assert all(pairs(caption) <= seen for caption in held_out)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("position", CENTRE)
def test_a_drawing_has_its_colours_where_it_should(shape: str, position: str) -> None:
    pixels = np.asarray(draw(Caption("large", "orange", shape, position, "blue")))
    x, y = (int(value) for value in CENTRE[position])
    assert pixels.shape == (64, 64, 3)
    assert tuple(pixels[0, 0]) == tuple(pixels[63, 63]) == PALETTE["blue"]
    assert tuple(pixels[y, x]) == PALETTE["orange"]


def test_edges_are_smooth() -> None:
    colours = {tuple(pixel) for pixel in np.asarray(draw(RED_CIRCLE)).reshape(-1, 3).tolist()}
    assert len(colours) > 10


def test_every_jittered_drawing_stays_inside_the_picture() -> None:
    rng = random.Random(0)
    for _ in range(300):
        placement = jitter(rng)
        for x, y in CENTRE.values():
            radius = max(RADIUS.values()) * placement.scale
            assert radius < min(x + placement.dx, y + placement.dy)
            assert max(x + placement.dx, y + placement.dy) < 64 - radius


def test_placement_moves_the_shape() -> None:
    ideal = np.asarray(draw(RED_CIRCLE))
    moved = np.asarray(draw(RED_CIRCLE, Placement(dx=2.0)))
    assert np.array_equal(moved[:, 2:], ideal[:, :-2])
