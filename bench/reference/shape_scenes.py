"""The world of the reference model: what can be said, how it is drawn, and what is held out.

A picture is one shape on a plain background. Colour and background never coincide, which leaves
2,040 captions; 200 of them are never drawn in training.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

IMAGE_SIZE = 64
"""Side of a picture, pixels."""

PALETTE: dict[str, RGB] = {
    "red": (220, 30, 40),
    "green": (30, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (250, 225, 40),
    "orange": (245, 125, 10),
    "purple": (140, 40, 170),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "gray": (128, 128, 128),
    "pink": (255, 165, 195),
}
COLOURS: tuple[str, ...] = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
BACKGROUNDS: tuple[str, ...] = ("white", "black", "gray", "blue", "green", "yellow", "pink")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
RADIUS: dict[str, float] = {"small": 7.0, "large": 14.0}
"""Half the side of the square that a shape fills, pixels."""
CENTRE: dict[str, Point] = {
    "left": (18.0, 32.0),
    "right": (46.0, 32.0),
    "top": (32.0, 18.0),
    "bottom": (32.0, 46.0),
    "center": (32.0, 32.0),
}
"""Centre of a shape's bounding box, (x, y) in pixels."""
SIZES: tuple[str, ...] = tuple(RADIUS)
POSITIONS: tuple[str, ...] = tuple(CENTRE)

HELD_OUT = 200
_SPLIT_SEED = 20_240_731
_SUPERSAMPLING = 8
_JITTER_PIXELS = 1.5
_JITTER_SCALE = 0.06


@dataclass(frozen=True, slots=True, order=True)
class Caption:
    """One picture in words. Each field is a word of this module's vocabulary."""

    size: str
    colour: str
    shape: str
    position: str
    background: str

    def __post_init__(self) -> None:
        for value, allowed in (
            (self.size, SIZES),
            (self.colour, COLOURS),
            (self.shape, SHAPES),
            (self.position, POSITIONS),
            (self.background, BACKGROUNDS),
        ):
            if value not in allowed:
                raise ValueError(f"{value!r} is not one of: {', '.join(allowed)}")
        if self.colour == self.background:
            raise ValueError(f"a {self.colour} shape cannot be seen on a {self.background} background")

    @property
    def text(self) -> str:
        """The prompt, as the text encoder reads it."""
        article = "an" if self.size[0] in "aeiou" else "a"
        return (
            f"{article} {self.size} {self.colour} {self.shape} at the {self.position}"
            f" on a {self.background} background"
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """How one drawing departs from the caption's ideal: shift in pixels, scale as a factor."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0


IDEAL = Placement()


def all_captions() -> tuple[Caption, ...]:
    """Every caption that can be drawn, in a fixed order."""
    product = itertools.product(SIZES, COLOURS, SHAPES, POSITIONS, BACKGROUNDS)
    return tuple(Caption(*words) for words in product if words[1] != words[4])


def split() -> tuple[tuple[Caption, ...], tuple[Caption, ...]]:
    """(training captions, held-out captions): disjoint, deterministic, together all captions."""
    captions = list(all_captions())
    random.Random(_SPLIT_SEED).shuffle(captions)
    return tuple(captions[HELD_OUT:]), tuple(captions[:HELD_OUT])


def jitter(rng: random.Random) -> Placement:
    """A small random departure, so that no two training pictures of one caption are equal."""
    return Placement(
        dx=rng.uniform(-_JITTER_PIXELS, _JITTER_PIXELS),
        dy=rng.uniform(-_JITTER_PIXELS, _JITTER_PIXELS),
        scale=rng.uniform(1.0 - _JITTER_SCALE, 1.0 + _JITTER_SCALE),
    )


def draw(caption: Caption, placement: Placement = IDEAL) -> Image.Image:
    """The caption as a 64x64 RGB picture with smooth edges."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), PALETTE[caption.background])
    x, y = CENTRE[caption.position]
    mask = shape_mask(
        caption.shape,
        (x + placement.dx, y + placement.dy),
        RADIUS[caption.size] * placement.scale,
        IMAGE_SIZE,
    )
    image.paste(PALETTE[caption.colour], (0, 0), mask)
    return image


def shape_mask(shape: str, centre: Point, radius: float, side: int) -> Image.Image:
    """Coverage of each pixel by the shape, 0 to 255 ("L"), on a square canvas of `side` pixels.

    `centre` is the centre of the shape's bounding box and `radius` half its side, in pixels.
    """
    # Pillow draws hard edges: draw large, then average each block of pixels.
    big = Image.new("L", (side * _SUPERSAMPLING, side * _SUPERSAMPLING), 0)
    pen = ImageDraw.Draw(big)
    left, top = centre[0] - radius, centre[1] - radius

    def at(points: Sequence[Point]) -> list[Point]:
        """Points of the unit square -> pixels of the large canvas."""
        return [
            (
                (left + 2.0 * radius * u) * _SUPERSAMPLING - 0.5,
                (top + 2.0 * radius * v) * _SUPERSAMPLING - 0.5,
            )
            for u, v in points
        ]

    if shape == "circle":
        pen.ellipse(at([(0.0, 0.0), (1.0, 1.0)]), fill=255)
    else:
        pen.polygon(at(_POLYGONS[shape]), fill=255)
    return big.resize((side, side), Image.Resampling.BOX)


_POLYGONS: dict[str, tuple[Point, ...]] = {
    "square": ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "triangle": ((0.5, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "cross": (
        (0.33, 0.0), (0.67, 0.0), (0.67, 0.33), (1.0, 0.33), (1.0, 0.67), (0.67, 0.67),
        (0.67, 1.0), (0.33, 1.0), (0.33, 0.67), (0.0, 0.67), (0.0, 0.33), (0.33, 0.33),
    ),
}  # fmt: skip
