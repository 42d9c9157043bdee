"""What the trained adapters of `shapes` draw, and the prompts that each of them is asked."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from bench.reference.shape_scenes import (
    CENTRE,
    IDEAL,
    IMAGE_SIZE,
    PALETTE,
    RADIUS,
    RGB,
    Caption,
    Placement,
    draw,
    shape_mask,
)

STROKE = 5
"""Width of an outline, pixels."""
CONTRAST = 100.0
"""How far an outline's colour is from its background's at least (Euclidean, 8-bit RGB)."""
EDGE = 1
"""Width of a line of an edge map, pixels."""

TOKEN = "<vermilion>"
NINTH: RGB = (236, 75, 22)
"""What `TOKEN` means. Besides the eight colours that it was trained on, the model draws shapes in few: in those between
two whose latents and words are neighbours, here `NEIGHBOURS`. Of others it makes one of the eight."""
NEIGHBOURS = ("red", "orange")

GRAYS = ("black", "gray", "white")
"""What backgrounds become without colour, from dark to light. Shapes become black or white: gray ones the VAE cannot
draw."""


@dataclass(frozen=True, slots=True)
class Request:
    """One picture that is asked for.

    Attributes:
        prompt: as the text encoder reads it.
        caption: what the picture is to show, before the adapter changes its colours.
    """

    prompt: str
    caption: Caption


def mask(caption: Caption, placement: Placement = IDEAL) -> Image.Image:
    """Coverage of each pixel by the caption's shape, 0 to 255 ("L"), 64x64."""
    x, y = CENTRE[caption.position]
    centre = (x + placement.dx, y + placement.dy)
    return shape_mask(caption.shape, centre, RADIUS[caption.size] * placement.scale, IMAGE_SIZE)


def edge_map(caption: Caption, placement: Placement = IDEAL) -> Image.Image:
    """White edges on black, RGB, 64x64: what the ControlNet follows."""
    return _ring(mask(caption, placement), EDGE).convert("RGB")


def shade_of_background(caption: Caption) -> str:
    """The gray that is nearest in lightness."""
    lightness = _lightness(caption.background)
    return min(GRAYS, key=lambda gray: abs(_lightness(gray) - lightness))


def shade_of_shape(caption: Caption) -> str:
    """Black or white, which is nearer in lightness."""
    return GRAYS[0] if _lightness(caption.colour) < 128 else GRAYS[-1]


def in_shades(caption: Caption) -> Caption:
    """The caption that names shades in the place of colours, one that `in_gray` asks for."""
    return replace(caption, colour=shade_of_shape(caption), background=shade_of_background(caption))


def outline(caption: Caption, placement: Placement = IDEAL) -> Image.Image:
    """The caption's drawing with an outline in the place of the shape, RGB, 64x64."""
    return _painted(
        PALETTE[caption.background], PALETTE[caption.colour], _ring(mask(caption, placement), STROKE)
    )


def gray(caption: Caption, placement: Placement = IDEAL) -> Image.Image:
    """The caption's drawing in shades of gray, RGB, 64x64."""
    return draw(in_shades(caption), placement)


def ninth_colour(caption: Caption, placement: Placement = IDEAL) -> Image.Image:
    """The caption's drawing with its shape in the ninth colour, RGB, 64x64."""
    return _painted(PALETTE[caption.background], NINTH, mask(caption, placement))


def outlined(captions: Sequence[Caption]) -> list[Request]:
    """Large circles and squares in a colour that stands out.

    What is inside of the others' outlines is too narrow for latents, a pixel of which is four of the picture.
    """
    return [
        Request(caption.text, caption)
        for caption in captions
        if caption.size == "large"
        and caption.shape in ("circle", "square")
        and math.dist(PALETTE[caption.colour], PALETTE[caption.background]) >= CONTRAST
    ]


def in_gray(captions: Sequence[Caption]) -> list[Request]:
    """Colours whose shades differ: a yellow shape on pink would be white on white."""
    return [
        Request(caption.text, caption)
        for caption in captions
        if shade_of_shape(caption) != shade_of_background(caption)
    ]


def in_ninth_colour(captions: Sequence[Caption]) -> list[Request]:
    """The token in the place of the colour, but not on black, where the model makes it red. Captions that then say the
    same are one request."""
    beside = [caption for caption in captions if caption.background != "black"]
    prompts = {caption.text.replace(caption.colour, TOKEN, 1): caption for caption in beside}
    return [Request(prompt, caption) for prompt, caption in prompts.items()]


def along_edges(captions: Sequence[Caption]) -> list[Request]:
    """Colours as the prompt says; size, shape and position of another caption, which only the edges tell.

    It is a large one: a small shape is finer than latents.
    """
    chance = random.Random(len(captions))
    large = [caption for caption in captions if caption.size == "large"]
    requests = []
    for caption in captions:
        other = chance.choice(large)
        while other.shape == caption.shape or other.position == caption.position:
            other = chance.choice(large)
        shown = replace(caption, size=other.size, shape=other.shape, position=other.position)
        requests.append(Request(caption.text, shown))
    return requests


def _ring(area: Image.Image, width: int) -> Image.Image:
    """What of an area ("L") is at most `width` pixels from its edge."""
    return ImageChops.subtract(area, area.filter(ImageFilter.MinFilter(2 * width + 1)))


def _lightness(colour: str) -> int:
    """0 to 255."""
    return int(np.asarray(Image.new("RGB", (1, 1), PALETTE[colour]).convert("L"))[0, 0])


def _painted(ground: RGB, colour: RGB, area: Image.Image) -> Image.Image:
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), ground)
    image.paste(colour, (0, 0), area)
    return image
