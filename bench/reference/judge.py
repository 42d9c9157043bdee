"""Reads a picture back into words, without learning: what prompt accuracy is measured with.

The background is the colour along the border, the shape is the largest region that differs from it;
its bounding box gives size and position, its outline is compared with each shape's own drawing. What
cannot be read is None, and counts as wrong.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from bench.reference.shape_scenes import (
    BACKGROUNDS,
    CENTRE,
    COLOURS,
    IMAGE_SIZE,
    PALETTE,
    RADIUS,
    RGB,
    SHAPES,
    Caption,
    shape_mask,
)

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_BORDER = 2
_COLOUR_TOLERANCE = 75.0
"""Farther than this from every colour's name (Euclidean, 8-bit RGB) is no colour."""
_POSITION_TOLERANCE = 7.0
"""Farther than this from every position (pixels) is no position: half the way between two."""
_SIZE_TOLERANCE = 1.35
"""Larger or smaller than every size by more than this factor is no size."""
_SMALLEST_AREA = 40
OVERLAP = 0.65
"""Intersection over union with a shape's own drawing, below which it is no shape."""
_TEMPLATE = 32


@dataclass(frozen=True, slots=True)
class Reading:
    """What was recognized; None where nothing was."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    position: str | None = None
    background: str | None = None


ATTRIBUTES: tuple[str, ...] = tuple(field.name for field in fields(Reading))


@dataclass(frozen=True, slots=True)
class Box:
    """A region's bounding box in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0

    @property
    def radius(self) -> float:
        """Half the side of a square of the box's area."""
        return math.sqrt((self.right - self.left) * (self.bottom - self.top)) / 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A picture taken apart.

    Attributes:
        pixels: float64 [64, 64, 3], 0 to 255, without single wrong pixels.
        ground: the background's colour, float64 [3].
        foreground: where pixels are nearer to the shape's colour than to the background's, bool [64, 64].
        region: the shape's own pixels, bool [64, 64]; None where there is no shape.
    """

    pixels: Floats
    ground: Floats
    foreground: Mask
    region: Mask | None


def take_apart(image: Image.Image) -> Parts:
    """Background and shape of a picture of any square size (it is brought to 64x64 first)."""
    rgb = image.convert("RGB")
    if rgb.size != (IMAGE_SIZE, IMAGE_SIZE):
        rgb = rgb.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    # A median keeps edges where they are and takes single wrong pixels away.
    pixels = np.asarray(rgb.filter(ImageFilter.MedianFilter(3)), dtype=np.float64)
    ground = np.median(_border(pixels), axis=0)
    foreground = _foreground(pixels, ground)
    return Parts(pixels, ground, foreground, largest_region(foreground))


def read(image: Image.Image) -> Reading:
    """The five attributes of a picture of any square size."""
    parts = take_apart(image)
    background = nearest(parts.ground, BACKGROUNDS)
    if parts.region is None:
        return Reading(background=background)
    colour = nearest(colour_of(parts.pixels, parts.region), COLOURS)
    return replace(read_figure(parts.region), colour=colour, background=background)


def read_figure(region: Mask) -> Reading:
    """Size, shape and position of a shape that fills `region`, bool [64, 64]."""
    box = _box(region)
    return Reading(size=_size(box), shape=_shape(region, box), position=_position(box))


def colour_of(pixels: Floats, region: Mask) -> Floats:
    """The median colour, float64 [3], of a region's pixels [64, 64, 3] without its edge, where colours are mixed."""
    colour: Floats = np.median(pixels[_core(region)], axis=0)
    return colour


def attribute_accuracy(images: Iterable[Image.Image], captions: Iterable[Caption]) -> dict[str, float]:
    """Each attribute's share of pictures in which it was read back right, 0 to 1.

    Raises ValueError if there are not as many pictures as captions, or none.
    """
    pairs = list(zip(images, captions, strict=True))
    if not pairs:
        raise ValueError("no pictures to judge")
    right = dict.fromkeys(ATTRIBUTES, 0)
    for image, caption in pairs:
        reading = read(image)
        for name in ATTRIBUTES:
            right[name] += getattr(reading, name) == getattr(caption, name)
    return {name: count / len(pairs) for name, count in right.items()}


def prompt_accuracy(images: Iterable[Image.Image], captions: Iterable[Caption]) -> float:
    """Mean share, 0 to 1, of the five attributes that were read back right."""
    return mean(attribute_accuracy(images, captions))


def mean(shares: Mapping[str, float]) -> float:
    """Attribute accuracies -> prompt accuracy."""
    return sum(shares.values()) / len(shares)


def nearest(colour: Floats, names: Sequence[str]) -> str | None:
    """The name whose palette entry is closest to an RGB value [3], if one is close enough."""
    distances = {name: _distance(colour, PALETTE[name]) for name in names}
    best = min(distances, key=distances.__getitem__)
    return best if distances[best] <= _COLOUR_TOLERANCE else None


def _distance(colour: Floats, other: RGB) -> float:
    return float(np.linalg.norm(colour - np.asarray(other, dtype=np.float64)))


def _border(pixels: Floats) -> Floats:
    """The picture's outermost pixels, [N, 3]."""
    inside = np.zeros(pixels.shape[:2], dtype=np.bool_)
    inside[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    return pixels[~inside]


def _foreground(pixels: Floats, ground: Floats) -> Mask:
    """Pixels that are nearer to the shape's colour than to the background's, [64, 64]."""
    away = np.linalg.norm(pixels - ground, axis=-1)
    # The strongest hundredth stands for the shape's colour; a smooth edge is cut half way to it.
    contrast = float(np.quantile(away, 0.99))
    far: Mask = away > max(30.0, 0.5 * contrast)
    return far


def largest_region(mask: Mask) -> Mask | None:
    """The largest 4-connected region of a mask, or None if all are specks."""
    left_over = mask.copy()
    best, most = mask, 0
    while left_over.sum() > most:
        region = np.zeros_like(mask)
        region.flat[np.argmax(left_over)] = True
        size = 0
        while (grown := int(region.sum())) > size:
            size = grown
            region = _spread(region) & left_over
        left_over &= ~region
        if size > most:
            best, most = region, size
    return best if most >= _SMALLEST_AREA else None


def filled(region: Mask) -> Mask:
    """The region with its holes, bool [64, 64]."""
    outside = np.ones_like(region)
    outside[1:-1, 1:-1] = False
    outside &= ~region
    size = -1
    while (grown := int(outside.sum())) > size:
        size = grown
        outside = _spread(outside) & ~region
    return ~outside


def _spread(region: Mask) -> Mask:
    """The region and its 4-neighbours."""
    result = region.copy()
    result[1:] |= region[:-1]
    result[:-1] |= region[1:]
    result[:, 1:] |= region[:, :-1]
    result[:, :-1] |= region[:, 1:]
    return result


def _core(region: Mask) -> Mask:
    """The region without its outermost pixels, whose colours are mixed (all of it, if none is left)."""
    padded = np.pad(region, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & region
    return inner if inner.any() else region


def _box(region: Mask) -> Box:
    rows, columns = np.nonzero(region)
    return Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def _size(box: Box) -> str | None:
    off = {name: abs(math.log(box.radius / radius)) for name, radius in RADIUS.items()}
    best = min(off, key=off.__getitem__)
    return best if off[best] <= math.log(_SIZE_TOLERANCE) else None


def _position(box: Box) -> str | None:
    off = {name: math.dist(box.centre, centre) for name, centre in CENTRE.items()}
    best = min(off, key=off.__getitem__)
    return best if off[best] <= _POSITION_TOLERANCE else None


def _shape(region: Mask, box: Box) -> str | None:
    cut = Image.fromarray(region[box.top : box.bottom, box.left : box.right].astype(np.uint8) * 255)
    stretched = np.asarray(cut.resize((_TEMPLATE, _TEMPLATE), Image.Resampling.BILINEAR)) > 127
    overlaps = {name: overlap(stretched, _template(name)) for name in SHAPES}
    best = max(overlaps, key=overlaps.__getitem__)
    return best if overlaps[best] >= OVERLAP else None


def overlap(mask: Mask, other: Mask) -> float:
    """Intersection over union of two masks that are not both empty, 0 to 1."""
    return float((mask & other).sum() / (mask | other).sum())


@functools.cache
def _template(shape: str) -> Mask:
    """The shape's own drawing, filling a square of 32 pixels."""
    half = _TEMPLATE / 2.0
    return np.asarray(shape_mask(shape, (half, half), half, _TEMPLATE)) > 127
