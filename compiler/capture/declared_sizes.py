"""Where a pipeline is run: the sizes, batches, frames and lengths of text that show what varies between its calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from artifacts.manifest_reading import MAX_SIDE
from artifacts.memory import shortage
from compiler.capture.arguments import Point


@dataclass(frozen=True)
class SizeRange:
    """Declared ranges of a picture's width and height, in pixels."""

    width: DimRange
    height: DimRange


MOST_AT_ONCE = 1024
"""Pictures of one call."""
MOST_PIXELS = 1 << 28
"""Of all pictures and frames of the largest call, which is captured, too."""
_BYTES_A_PIXEL = 80
"""That pipelines' own Python takes there to make pictures of what was decoded: some arrays of 32 bits for each colour.
Measured with Stable Diffusion's, at 8192x8192."""


def check(
    size: SizeRange | None, batch: DimRange | None, frames: DimRange | None, tokens: DimRange | None
) -> None:
    """Whether calls of these sizes can be captured, and an artifact may declare them.

    Raises:
        UsageError: a figure is more than either takes.
        LatentcError: there is not enough memory to run the pipeline so.
    """
    limits = (
        ("--size", None if size is None else size.width, MAX_SIDE, "pixels of a side"),
        ("--size", None if size is None else size.height, MAX_SIDE, "pixels of a side"),
        ("--batch", batch, MOST_AT_ONCE, "pictures at once"),
        ("--frames", frames, MAX_SIDE, "frames"),
        ("--tokens", tokens, MAX_SIDE, "tokens"),
    )
    for option, declared, most, unit in limits:
        if declared is not None and declared.max > most:
            raise UsageError(f"{option} asks for {declared.max:,} {unit}; at most {most:,} can be compiled.")
    if size is None:
        return
    counts = [1 if declared is None else declared.max for declared in (batch, frames)]
    pixels = math.prod((size.width.max, size.height.max, *counts))
    smaller = "Ask for a smaller --size, --batch or --frames."
    if pixels > MOST_PIXELS:
        raise UsageError(
            f"the largest call would have {pixels:,} pixels in all; at most {MOST_PIXELS:,} can be compiled.",
            smaller,
        )
    if missing := shortage(pixels * _BYTES_A_PIXEL):
        raise LatentcError(f"the pipeline's own code takes about {missing}, at the largest sizes.", smaller)


def points_inside(
    size: SizeRange,
    batch: DimRange,
    frames: DimRange | None = None,
    tokens: DimRange | None = None,
    most: int = 3,
) -> tuple[Point, ...]:
    """Where pipelines are run: an example off every end, both ends, and one more batch size.

    The example comes first; it is what is exported, and its batch is at least 2, because torch.export takes a
    size of 1 for a constant. So does its video have most frames: a short one may be of one latent. `most` 1 is for
    pipelines that make one picture a call: their batch is a constant.
    """
    height, width = _inner(size.height, 1), _inner(size.width, 2)
    low, high = (size.height.min, size.width.min), (size.height.max, size.width.max)
    short, middle, long = (0, 0, 0) if frames is None else (frames.min, _between(frames), frames.max)
    points = [
        Point(max(2, batch.min), height, width, words=4, extra=batch.max < 2, frames=long),
        Point(
            max(3, batch.min + 1),
            low[0],
            high[1],
            words=9,
            extra=batch.max < max(3, batch.min + 1),
            frames=middle,
        ),
        Point(batch.max, *high, words=14, frames=long),
        Point(batch.min, *low, words=2, guided=False, frames=short),
    ]
    if (batch.min, low, short) != (batch.max, high, long):
        points.append(Point(batch.min, *low, words=2, frames=short))
    if batch.min > 1:  # Pictures of one prompt: it is encoded once.
        points.append(Point(batch.min, *low, words=2, images_per_prompt=batch.min, frames=short))
    if tokens is not None:
        points.append(Point(batch.max, *high, words=14, tokens=tokens.max, frames=long))
        points.append(Point(max(2, batch.min), height, width, tokens=tokens.max + 1, extra=True, frames=long))
        points.append(Point(batch.min, *low, words=2, guided=False, tokens=tokens.min, frames=short))
    return tuple(replace(point, batch=min(point.batch, max(most, batch.max))) for point in points)


def _between(frames: DimRange) -> int:
    """A number inside the range that an autoencoder makes, if it makes both ends: they count in steps of 8, 4 or 2."""
    span = frames.max - frames.min
    unit = next(u for u in (8, 4, 2, 1) if span % u == 0)
    return min(frames.min + unit * max(1, span // unit // 2), frames.max)


def _inner(span: DimRange, steps: int) -> int:
    """A size `steps` units above the range's start, in units that sizes usually are multiples of."""
    unit = next(u for u in (64, 32, 16, 8, 1) if span.min % u == 0 and span.max % u == 0)
    return min(span.min + steps * unit, span.max)


def corners(points: Sequence[Point]) -> Iterator[Point]:
    """The widest and the tallest picture within the declared sizes: the ends of a table of aspect ratios."""
    declared = [point for point in points if not point.extra]
    heights, widths = [point.height for point in declared], [point.width for point in declared]
    yield replace(declared[0], height=min(heights), width=max(widths))
    yield replace(declared[0], height=max(heights), width=min(widths))
