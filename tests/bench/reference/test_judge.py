"""The judge must read every clean drawing, stand a little damage, and not see what is not there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bench.reference.judge import ATTRIBUTES, Reading, attribute_accuracy, prompt_accuracy, read
from bench.reference.shape_scenes import (
    BACKGROUNDS,
    COLOURS,
    PALETTE,
    POSITIONS,
    SHAPES,
    SIZES,
    Caption,
    all_captions,
    draw,
    jitter,
)

SAMPLE = random.Random(7).sample(all_captions(), 60)
CAPTION = Caption("large", "red", "circle", "left", "blue")


def damaged(image: Image.Image, *, blur: float = 0.0, noise: float = 0.0, seed: int = 0) -> Image.Image:
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float64)
    pixels = pixels + np.random.default_rng(seed).normal(0.0, noise, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def misread(captions: Sequence[Caption]) -> list[str]:
    return [caption.text for caption in captions if prompt_accuracy([draw(caption)], [caption]) < 1.0]


def test_clean_drawings_are_read_back() -> None:
    assert not misread(random.Random(3).sample(all_captions(), 250))


@pytest.mark.slow
def test_every_clean_drawing_is_read_back() -> None:
    assert not misread(all_captions())


@pytest.mark.parametrize(
    ("blur", "noise"),
    [(0.0, 0.0), (0.8, 0.0), (0.0, 25.0), (0.8, 12.0)],
    ids=["none", "blur", "noise", "both"],
)
def test_modest_damage_does_not_mislead(blur: float, noise: float) -> None:
    rng = random.Random(1)
    images = [damaged(draw(c, jitter(rng)), blur=blur, noise=noise, seed=i) for i, c in enumerate(SAMPLE)]
    assert prompt_accuracy(images, SAMPLE) >= 0.995


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_wrong_attribute_is_noticed_and_only_that(name: str) -> None:
    others = {
        "size": SIZES,
        "colour": COLOURS,
        "shape": SHAPES,
        "position": POSITIONS,
        "background": BACKGROUNDS,
    }
    for word in others[name]:
        if word == getattr(CAPTION, name) or (name, word) in {("colour", "blue")}:
            continue
        other = replace(CAPTION, **{name: word})
        shares = attribute_accuracy([draw(CAPTION)], [other])
        assert shares == {each: float(each != name) for each in ATTRIBUTES}


def test_an_empty_picture_has_a_background_and_nothing_else() -> None:
    for name in BACKGROUNDS:
        assert read(Image.new("RGB", (64, 64), PALETTE[name])) == Reading(background=name)


def test_noise_is_no_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    reading = read(Image.fromarray(pixels))
    assert reading.shape is None
    assert reading.position is None or reading.size is None


def test_a_colour_without_a_name_is_none() -> None:
    image = Image.new("RGB", (64, 64), PALETTE["white"])
    image.paste((0, 255, 255), (20, 20, 44, 44))
    assert read(image).colour is None
    assert read(Image.new("RGB", (64, 64), (0, 255, 255))).background is None


def test_a_shape_between_two_positions_is_nowhere() -> None:
    image = Image.new("RGB", (64, 64), PALETTE["white"])
    image.paste(PALETTE["red"], (42, 42, 56, 56))
    assert read(image) == Reading("small", "red", "square", None, "white")


def test_pictures_of_other_sizes_are_read() -> None:
    large = draw(CAPTION).resize((256, 256), Image.Resampling.BICUBIC)
    assert prompt_accuracy([large], [CAPTION]) == 1.0


def test_accuracy_is_the_mean_over_attributes_and_pictures() -> None:
    captions = [CAPTION, replace(CAPTION, size="small")]
    images = [draw(CAPTION), draw(CAPTION)]
    assert attribute_accuracy(images, captions)["size"] == 0.5
    assert prompt_accuracy(images, captions) == pytest.approx(0.9)


def test_pictures_and_captions_must_match_in_number() -> None:
    with pytest.raises(ValueError, match="longer|shorter"):
        prompt_accuracy([draw(CAPTION)], [CAPTION, CAPTION])
    with pytest.raises(ValueError, match="no pictures"):
        prompt_accuracy([], [])
