"""Reads off a picture whether a trained adapter did what it says, without learning, as bench.reference.judge does."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageFilter

from bench.project.reference.adapter_scenes import NINTH, STROKE, mask, shade_of_background, shade_of_shape
from bench.reference.judge import (
    OVERLAP,
    Floats,
    Mask,
    Parts,
    colour_of,
    filled,
    nearest,
    overlap,
    read_figure,
    take_apart,
)
from bench.reference.shape_scenes import BACKGROUNDS, COLOURS, PALETTE, Caption

OWN = "adapter"
"""The attribute that says whether the adapter did what it says."""

_HOLLOW = 0.7
"""Share of what is inside of an outline that is nearer to the background's colour than to the shape's."""
_SOFT = 2
"""How much wider a line may be drawn than it is asked, pixels: half of one of the latents."""
_GROUND_DISTANCE = 40.0
"""How far from the background's colour (Euclidean, 8-bit RGB) the inside of an outline is at most."""
_SATURATION = 45.0
"""How far a gray's channels are from each other at most, of 255: half as far as those of pink, the palest colour."""
_SHADE = 35.0
"""How far from the shade that it is to have a gray is at most, of 255."""
_HUE = 20.0
"""How far from its hue a colour is at most, degrees."""

Verdict = dict[str, bool]
"""What of a picture is right, by attribute; `OWN` is the first."""


def outline(image: Image.Image, caption: Caption) -> Verdict:
    """An outline: inside of it is the background again, and its edge has the colour."""
    parts = take_apart(image)
    if parts.region is None:
        return _nothing(parts, caption)
    figure = filled(parts.region)
    inside, edge = _shrunk(figure, STROKE + _SOFT), figure & ~_shrunk(figure, 1)
    hollow = (
        bool(inside.any())
        and float((~parts.foreground[inside]).mean()) >= _HOLLOW
        and _distance(np.median(parts.pixels[inside], axis=0), parts.ground) <= _GROUND_DISTANCE
        and float(parts.foreground[edge].mean()) >= _HOLLOW
    )
    return {OWN: hollow, **_figure(figure, caption), **_colours(parts, parts.region, caption)}


def gray(image: Image.Image, caption: Caption) -> Verdict:
    """Neither the background nor the shape is coloured; and the shades are those of the colours that were asked for."""
    parts = take_apart(image)
    background = bool(np.abs(parts.ground - _rgb(PALETTE[shade_of_background(caption)])).max() <= _SHADE)
    if parts.region is None:
        return {**_nothing(parts, caption), "background": background}
    colour = colour_of(parts.pixels, parts.region)
    is_shade = bool(np.abs(colour - _rgb(PALETTE[shade_of_shape(caption)])).max() <= _SHADE)
    own = {OWN: bool(max(np.ptp(parts.ground), np.ptp(colour)) <= _SATURATION)}
    return {**own, **_figure(parts.region, caption), "colour": is_shade, "background": background}


def ninth_colour(image: Image.Image, caption: Caption) -> Verdict:
    """The hue of the ninth colour, and nearer to it than to any of the eight. The caption's own colour is not asked."""
    parts = take_apart(image)
    verdict = _nothing(parts, caption)
    if parts.region is not None:
        colour = colour_of(parts.pixels, parts.region)
        turn = abs(_hue(colour) - _hue(_rgb(NINTH)))
        nearest_of_eight = min(_distance(colour, _rgb(PALETTE[name])) for name in COLOURS)
        own = min(turn, 360.0 - turn) <= _HUE and _distance(colour, _rgb(NINTH)) < nearest_of_eight
        verdict |= {OWN: own, **_figure(parts.region, caption)}
    del verdict["colour"]
    return verdict


def edges(image: Image.Image, caption: Caption) -> Verdict:
    """The shape fills what the caption's edges enclose."""
    parts = take_apart(image)
    if parts.region is None:
        return _nothing(parts, caption)
    follows = overlap(parts.region, np.asarray(mask(caption)) > 127) >= OVERLAP
    return {OWN: follows, **_figure(parts.region, caption), **_colours(parts, parts.region, caption)}


def _figure(region: Mask, caption: Caption) -> Verdict:
    reading = read_figure(region)
    return {name: getattr(reading, name) == getattr(caption, name) for name in ("size", "shape", "position")}


def _colours(parts: Parts, region: Mask, caption: Caption) -> Verdict:
    return {
        "colour": nearest(colour_of(parts.pixels, region), COLOURS) == caption.colour,
        "background": nearest(parts.ground, BACKGROUNDS) == caption.background,
    }


def _nothing(parts: Parts, caption: Caption) -> Verdict:
    """Of a picture without a shape."""
    background = nearest(parts.ground, BACKGROUNDS) == caption.background
    return {**dict.fromkeys((OWN, "size", "shape", "position", "colour"), False), "background": background}


def _shrunk(region: Mask, pixels: int) -> Mask:
    """The region without what is at most so many pixels from its edge."""
    image = Image.fromarray(region.astype(np.uint8) * 255)
    return np.asarray(image.filter(ImageFilter.MinFilter(2 * pixels + 1))) > 127


def _rgb(colour: tuple[int, int, int]) -> Floats:
    return np.asarray(colour, dtype=np.float64)


def _distance(colour: Floats, other: Floats) -> float:
    return float(np.linalg.norm(colour - other))


def _hue(colour: Floats) -> float:
    """Degrees."""
    red, green, blue = (colour / 255.0).tolist()
    return colorsys.rgb_to_hsv(red, green, blue)[0] * 360.0
