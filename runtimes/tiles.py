"""Pictures decoded and encoded in overlapping tiles: of any graph that makes a picture larger or smaller.

A decoder makes `factor` pixels of each cell of a latent, an encoder one cell of as many pixels. Tiles are laid on
cells; each is a call of the same graph, and what neighbours share is blended.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from artifacts.errors import UsageError
from artifacts.manifest import DimRange, GraphSpec, Manifest, TensorSpec
from artifacts.units import whole_number

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]

OFF, AUTO = "off", "auto"

OVERLAP = 0.25
"""The part of a tile's side that it shares with the next, at least."""

SMALLEST = 8
"""Cells of the smallest tile; below, most of it would be overlap whose border is unlike the whole picture."""

_HINT = "For instance: --tile 512, --tile auto or --tile off"


@dataclass(frozen=True)
class Tiling:
    """Whether calls are made in tiles.

    Attributes:
        mode: "auto" for where the graph or the memory does not take the whole picture, "off" for never, "on" for
            pictures that are larger than `side`.
        side: of a tile, in pixels of the picture.
        slices: whether the pictures of a batch are made one at a time, where the graph takes one.
    """

    mode: Literal["auto", "off", "on"] = "auto"
    side: int | None = None
    slices: bool = False


AS_FITS = Tiling()


def parse_tile(tile: str | int) -> Tiling:
    """What `tile` asks for: "auto", "off" or a number of pixels.

    Raises:
        UsageError: none of these.
    """
    text = str(tile).strip().lower()
    if text == AUTO:
        return Tiling()
    if text == OFF:
        return Tiling(mode="off")
    side = None if isinstance(tile, bool) else whole_number(text)
    if side is None or not 0 < side < 10**6:
        raise UsageError(f"a tile is auto, off or a number of pixels; found '{tile}'.", _HINT)
    return Tiling(mode="on", side=side, slices=True)


@dataclass(frozen=True)
class Scaling:
    """How a graph changes a picture's size.

    Attributes:
        picture: the input that is a picture, or cells.
        factor: pixels of each cell, in either direction.
        enlarges: whether cells go in and pixels come out.
        limits: of the cells' height and width in one call.
        batch: of the pictures in one call.
    """

    graph: str
    picture: str
    factor: int
    enlarges: bool
    limits: tuple[DimRange, DimRange]
    batch: DimRange

    @property
    def smallest(self) -> int:
        """Pixels of the side of the smallest tile."""
        return self.factor * max(SMALLEST, *(limit.min for limit in self.limits))

    @property
    def into(self) -> int:
        """Elements of the input along a cell's side."""
        return 1 if self.enlarges else self.factor

    @property
    def out_of(self) -> int:
        """Elements of the output along a cell's side."""
        return self.factor if self.enlarges else 1

    def cells(self, arrays: Arrays) -> tuple[int, int] | None:
        """Height and width of a call in cells; None where its pixels are no whole number of them."""
        height, width = arrays[self.picture].shape[-2:]
        if height % self.into or width % self.into:
            return None
        return height // self.into, width // self.into

    def check(self, side: int) -> None:
        """Raises UsageError for a tile that the graph does not take."""
        if side >= self.smallest:
            return
        low = max(limit.min for limit in self.limits)
        if low > SMALLEST:
            raise UsageError(
                f"{self.graph} was compiled for at least {low * self.factor} pixels; found a tile of {side}.",
                f"Use --tile {self.smallest}, or compile for less: latentc compile MODEL OUT --size MIN..MAX",
            )
        raise UsageError(
            f"a tile has at least {self.smallest} pixels for {self.graph}, of which neighbours share "
            f"{_overlap(SMALLEST) * self.factor}; found {side}.",
            f"Use --tile {self.smallest} or more",
        )


def scaling_of(graph: GraphSpec) -> Scaling | None:
    """How the graph changes a picture's size, if that is what it does: of its inputs only one is more than a number for
    each picture, of its outputs there is one, and height and width of both are in one proportion."""
    inputs = [spec for spec in graph.inputs if len(spec.shape) > 1]
    if len(inputs) != 1 or len(graph.outputs) != 1:
        return None
    before, after = inputs[0], graph.outputs[0]
    if len(before.shape) < 4 or len(after.shape) != len(before.shape) or before.shape[0] != after.shape[0]:
        return None
    sides = [(_range(before, axis, graph), _range(after, axis, graph)) for axis in (-2, -1)]
    factors = {_factor(*pair) for pair in sides}
    factor = factors.pop()
    if factors or factor is None or factor in (1, -1):
        return None
    limits = tuple(pair[0] if factor > 0 else pair[1] for pair in sides)
    batch = _range(before, 0, graph)
    if any(limit is None for limit in limits) or batch is None:
        return None
    return Scaling(graph.folder, before.name, abs(factor), factor > 0, limits, batch)  # type: ignore[arg-type]


def _range(spec: TensorSpec, axis: int, graph: GraphSpec) -> DimRange | None:
    dim = spec.shape[axis]
    return DimRange(min=dim, max=dim) if isinstance(dim, int) else graph.dims.get(dim)


def _factor(before: DimRange | None, after: DimRange | None) -> int | None:
    """How many times larger one side becomes; negative where it becomes smaller; None where it is not one number."""
    if before is None or after is None:
        return None
    for small, large, sign in ((before, after, 1), (after, before, -1)):
        factor = large.max // small.max
        if factor >= 1 and (large.min, large.max) == (small.min * factor, small.max * factor):
            return sign * factor
    return None


@dataclass(frozen=True)
class Layout:
    """How one call is made: in rows of a batch, and in tiles.

    Attributes:
        rows: pictures in each call.
        tops, lefts: first cells of the tiles. height, width: of each, in cells.
    """

    rows: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    height: int
    width: int


def layout(scaling: Scaling, cells: tuple[int, int], batch: int, tiling: Tiling) -> Layout | None:
    """How a call is made; None for as a whole."""
    sides = list(cells)
    if tiling.mode != "off":
        most = max(cells) if tiling.side is None else tiling.side // scaling.factor
        sides = [min(size, limit.max, most) for size, limit in zip(cells, scaling.limits, strict=True)]
    rows = batch
    if tiling.slices:
        rows = min(rows, max(1, scaling.batch.min))
    if tuple(sides) == cells and rows == batch:
        return None
    if (
        any(side < limit.min for side, limit in zip(sides, scaling.limits, strict=True))
        or rows < scaling.batch.min
    ):
        return None
    starts = [_starts(size, side) for size, side in zip(cells, sides, strict=True)]
    return Layout(rows, starts[0], starts[1], sides[0], sides[1])


def check_tiles(tiling: Tiling, manifest: Manifest) -> None:
    """Raises UsageError for a tile that is smaller than a graph of the artifact takes."""
    if tiling.side is not None:
        for scaling in filter(None, map(scaling_of, manifest.graphs)):
            scaling.check(tiling.side)


def division(graph: GraphSpec, arrays: Arrays, tiling: Tiling) -> tuple[Scaling, Layout] | None:
    """How a call of the graph is made in parts; None for as a whole."""
    scaling = scaling_of(graph)
    cells = None if scaling is None else scaling.cells(arrays)
    if scaling is None or cells is None:
        return None
    plan = layout(scaling, cells, len(arrays[scaling.picture]), tiling)
    return None if plan is None else (scaling, plan)


def fitting(graph: GraphSpec, arrays: Arrays, requested: Tiling, fits: Callable[[int], bool]) -> Tiling:
    """The largest tiles whose calls fit, pictures one at a time; as asked where the whole call does.

    Args:
        fits: whether a call of so many elements does, inputs and outputs together.
    """
    scaling = scaling_of(graph)
    cells = None if scaling is None else scaling.cells(arrays)
    if scaling is None or cells is None:
        return requested
    rows = len(arrays[scaling.picture])
    # Elements of a cell, on both sides.
    shape = arrays[scaling.picture].shape
    inner = math.prod(shape[1:-2]) * scaling.into**2
    channels = [dim if isinstance(dim, int) else 1 for dim in graph.outputs[0].shape[1:-2]]
    inner += math.prod(channels) * scaling.out_of**2
    if fits(rows * inner * math.prod(cells)):
        return requested
    least = scaling.smallest // scaling.factor
    sides = range(max(cells), least - 1, -1)
    side = next((s for s in sides if fits(inner * math.prod(min(s, size) for size in cells))), least)
    return Tiling(mode="on", side=side * scaling.factor, slices=True)


def _overlap(side: int) -> int:
    return max(1, math.ceil(side * OVERLAP))


def _starts(size: int, side: int) -> tuple[int, ...]:
    """Where tiles of `side` cells begin, spread evenly, so that neighbours share `OVERLAP` of it or more."""
    if size <= side:
        return (0,)
    overlap = _overlap(side)
    count = math.ceil((size - overlap) / (side - overlap))
    return tuple(round(i * (size - side) / (count - 1)) for i in range(count))


@dataclass(frozen=True)
class Part:
    """One tile of a call.

    Attributes:
        rows: which pictures of the batch. row, column: which tile, counted.
        arrays: the graph's inputs, views of the whole call's.
    """

    rows: slice
    row: int
    column: int
    arrays: Arrays


def parts(arrays: Arrays, graph: GraphSpec, scaling: Scaling, plan: Layout) -> Iterator[Part]:
    """The calls that `arrays` is divided into."""
    picture = scaling.picture
    batch, side = arrays[picture].shape[0], scaling.into
    leading = next(spec.shape[0] for spec in graph.inputs if spec.name == picture)
    for first in range(0, batch, plan.rows):
        rows = slice(first, min(first + plan.rows, batch))
        own = {
            spec.name: arrays[spec.name][rows]
            if spec.shape and spec.shape[0] == leading
            else arrays[spec.name]
            for spec in graph.inputs
        }
        for (row, top), (column, left) in itertools.product(enumerate(plan.tops), enumerate(plan.lefts)):
            window = (_span(top, plan.height, side), _span(left, plan.width, side))
            yield Part(rows, row, column, {**own, picture: own[picture][(..., *window)]})


def run_in_tiles(
    run: Callable[[Arrays], Arrays], arrays: Arrays, graph: GraphSpec, scaling: Scaling, plan: Layout
) -> dict[str, np.ndarray]:
    """The graph's outputs, put together from calls of parts of `arrays`.

    Args:
        run: makes one call.
        arrays: of the whole call, its picture's sides whole numbers of cells.
    """
    import numpy as np

    cells = scaling.cells(arrays)
    assert cells is not None
    side = scaling.out_of
    down = _windows(cells[0], plan.height, plan.tops, side)
    across = _windows(cells[1], plan.width, plan.lefts, side)
    whole: np.ndarray | None = None
    for part in parts(arrays, graph, scaling, plan):
        outputs = run({name: np.array(array, order="C") for name, array in part.arrays.items()})
        values = outputs[graph.outputs[0].name]
        if whole is None:
            sides = (cells[0] * side, cells[1] * side)
            whole = np.zeros((len(arrays[scaling.picture]), *values.shape[1:-2], *sides), np.float32)
        top, left = plan.tops[part.row], plan.lefts[part.column]
        place = whole[part.rows][..., _span(top, plan.height, side), _span(left, plan.width, side)]
        place += values * (down[part.row][:, None] * across[part.column])
    assert whole is not None
    return {graph.outputs[0].name: whole.astype(values.dtype, copy=False)}


def _span(start: int, side: int, factor: int) -> slice:
    return slice(start * factor, (start + side) * factor)


def _windows(size: int, side: int, starts: Sequence[int], factor: int) -> list[np.ndarray]:
    """What each tile along one axis is multiplied by: ramps where neighbours overlap, which sum to 1 everywhere."""
    import numpy as np

    ramp = _overlap(side) * factor
    rise = np.minimum((np.arange(side * factor, dtype=np.float32) + 0.5) / ramp, 1)
    windows = []
    total = np.zeros(size * factor, np.float32)
    for start in starts:
        window = (rise if start > 0 else 1) * (rise[::-1] if start + side < size else np.ones_like(rise))
        windows.append(window)
        total[_span(start, side, factor)] += window
    return [w / total[_span(start, side, factor)] for w, start in zip(windows, starts, strict=True)]
