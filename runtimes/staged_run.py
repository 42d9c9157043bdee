"""A graph's call made in stages and tiles: every value between two stages is whole, every call is of a tile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Union

from artifacts.errors import LatentcError
from runtimes.file_array import FileArray, Window
from runtimes.sessions.session_contract import GraphFormat, Session
from runtimes.stages import Norm, Stage, Staging

if TYPE_CHECKING:
    import numpy as np

LARGE = 64 << 20
"""Bytes from which a value between stages lies in a temporary file, whose pages the system can write out."""

Span = tuple[int, int]
WHOLE: Window = (..., slice(None), slice(None))

Value = Union["np.ndarray", FileArray, "_Normed"]
"""What is between two stages, of a whole picture."""


@dataclass(frozen=True)
class StagedGraph:
    """A graph in stages.

    Attributes:
        model_file: whose parts the stages are.
        open: opens a part; in fp32 if its second argument says so.
    """

    model_file: Path
    format: GraphFormat
    staging: Staging
    open: Callable[[bytes, bool], Session]

    @cached_property
    def _affine(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What each norm multiplies each channel by, and adds: asked of the vendor, by pictures of two pixels."""
        import numpy as np

        norms = [norm for norm in self.staging.norms if norm is not None]
        with closing(self._opened([n.before for n in norms], [n.after for n in norms], True)) as session:
            probes = {}
            for name, spec in session.inputs.items():
                sizes = (1, *(1 if isinstance(dim, str) else dim for dim in spec.shape[1:-1]), 2)
                probes[name] = np.ones(sizes, spec.dtype)
                probes[name][..., 1] = -1
            pixels = {
                name: array.reshape(-1, 2).astype(np.float64) for name, array in session.run(probes).items()
            }
        return {
            norm.after: (
                (pixels[norm.after][:, 0] - pixels[norm.after][:, 1]) / 2 * math.sqrt(1 + norm.epsilon),
                (pixels[norm.after][:, 0] + pixels[norm.after][:, 1]) / 2,
            )
            for norm in norms
        }

    def run(
        self,
        arrays: Mapping[str, np.ndarray],
        cells: Span,
        side: Span,
        check: Callable[[], None] = lambda: None,
    ) -> dict[str, np.ndarray]:
        """The graph's outputs.

        Args:
            arrays: of one picture.
            cells: height and width of the picture, in units that every value has a whole number of elements of.
            side: those of a tile.
            check: raises where somebody asked to stop.

        Raises:
            Refused: the vendor did not open or run a part.
            LatentcError: a part makes no whole number of elements of each cell.
        """
        values: dict[str, Value] = dict(arrays)
        for number, stage in enumerate(self.staging.stages):
            values |= self._stage(stage, values, cells, side, check)
            if number == len(self.staging.norms):
                break
            if (norm := self.staging.norms[number]) is not None:
                values[norm.after] = self._normed(norm, values)
            later = {name for rest in self.staging.stages[number + 1 :] for name in rest.inputs}
            values = {name: value for name, value in values.items() if name in later}
        return {name: _array(values[name]) for name in self.staging.stages[-1].outputs}

    def _opened(self, inputs: Sequence[str], outputs: Sequence[str], wide: bool) -> Session:
        return self.open(self.format.extract(self.model_file, inputs, outputs), wide)

    def _stage(
        self,
        stage: Stage,
        values: Mapping[str, Value],
        cells: Span,
        side: Span,
        check: Callable[[], None],
    ) -> Mapping[str, np.ndarray | FileArray]:
        check()
        if not stage.outputs:
            return {}
        with closing(self._opened(stage.inputs, stage.outputs, False)) as session:
            names = [name for name in stage.inputs if name in session.inputs]
            if stage.rows:
                return self._rows(stage, session, {name: _array(values[name]) for name in names}, check)
            if not stage.local:
                return session.run({name: _array(values[name]) for name in names})
            scales = [_scale(values[name].shape, cells) for name in names]
            halo = math.ceil(stage.radius / min(scales))
            outputs: dict[str, np.ndarray | FileArray] = {}
            for tile in _tiles(cells, side, halo):
                check()
                part = {
                    name: _cropped(values[name], tile.around, scale)
                    for name, scale in zip(names, scales, strict=True)
                }
                for name, array in session.run(part).items():
                    height = tile.around[0][1] - tile.around[0][0]
                    scale, rest = divmod(array.shape[-2], height)
                    if rest or not scale:
                        raise LatentcError(
                            f"a part of {self.model_file.parent.name} is no picture of whole cells."
                        )
                    if name not in outputs:
                        shape = (*array.shape[:-2], cells[0] * scale, cells[1] * scale)
                        outputs[name] = _room(shape, array.dtype)
                    inner = [
                        slice((c[0] - a[0]) * scale, (c[1] - a[0]) * scale)
                        for c, a in zip(tile.core, tile.around, strict=True)
                    ]
                    outer = [slice(c[0] * scale, c[1] * scale) for c in tile.core]
                    outputs[name][..., outer[0], outer[1]] = array[..., inner[0], inner[1]]
            return outputs

    def _rows(
        self, stage: Stage, session: Session, arrays: Mapping[str, np.ndarray], check: Callable[[], None]
    ) -> dict[str, np.ndarray]:
        """The rows of an attention, so many at a time that their scores are no larger than `LARGE`."""
        import numpy as np

        rows = arrays[stage.rows]
        # A row's scores are one for each row, in each head.
        scores = math.prod(rows.shape[:-1]) * rows.dtype.itemsize
        step = max(1, LARGE // scores)
        parts = []
        for start in range(0, rows.shape[-2], step):
            check()
            part = np.ascontiguousarray(rows[..., start : start + step, :])
            parts.append(session.run({**arrays, stage.rows: part})[stage.outputs[0]])
        return {stage.outputs[0]: np.concatenate(parts, axis=-2)}

    def _normed(self, norm: Norm, values: Mapping[str, Value]) -> _Normed:
        """The norm of a whole value."""
        import numpy as np

        before = values[norm.before]
        if isinstance(before, _Normed):
            before = _array(before)
        factor, offset = self._affine[norm.after]
        mean, variance = _moments(before, norm.groups)
        scale = factor / np.sqrt(variance + norm.epsilon)
        shape = (*before.shape[:2], *(1 for _ in before.shape[2:]))
        return _Normed(
            before,
            scale.reshape(shape).astype(before.dtype),
            (offset - mean * scale).reshape(shape).astype(before.dtype),
        )


@dataclass(frozen=True)
class _Normed:
    """A value that is computed of another when a part of it is read."""

    before: np.ndarray | FileArray
    scale: np.ndarray
    offset: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.before.shape

    def part(self, window: Window) -> np.ndarray:
        part: np.ndarray = self.before[window] * self.scale
        part += self.offset
        return part


@dataclass(frozen=True)
class _Tile:
    """Rows and columns of cells: the tile's own, and those around it that its elements see."""

    core: tuple[Span, Span]
    around: tuple[Span, Span]


def _tiles(cells: Span, side: Span, halo: int) -> Iterator[_Tile]:
    """Tiles that have, with what is around them, as many cells as one of `side` at most.

    They are whole rows of cells, which lie together in a file. Where what is around would be more than half of that,
    they are of `side`, and where it would be of these, of more.
    """
    rows = side[0] * side[1] // cells[1]
    if cells[1] > side[1] and rows >= 4 * halo:
        side = (rows, cells[1])
    axes = []
    for size, most in zip(cells, side, strict=True):
        cells_each = size if size <= most else max(most - 2 * halo, most // 2, 1)
        count = math.ceil(size / cells_each)
        ends = [round(i * size / count) for i in range(count + 1)]
        axes.append(list(itertools.pairwise(ends)))
    for core in itertools.product(*axes):
        around = tuple(
            (max(0, low - halo), min(size, high + halo))
            for (low, high), size in zip(core, cells, strict=True)
        )
        yield _Tile((core[0], core[1]), (around[0], around[1]))


def _cropped(value: Value, spans: tuple[Span, Span], scale: int) -> np.ndarray:
    import numpy as np

    rows, columns = (slice(low * scale, high * scale) for low, high in spans)
    window: Window = (..., rows, columns)
    part = value.part(window) if isinstance(value, _Normed) else value[window]
    return np.ascontiguousarray(part)


def _array(value: Value) -> np.ndarray:
    import numpy as np

    if isinstance(value, _Normed):
        return value.part(WHOLE)
    return value if isinstance(value, np.ndarray) else value[WHOLE]


def _scale(shape: tuple[int, ...], cells: Span) -> int:
    scale = shape[-2] // cells[0]
    if not scale or (scale * cells[0], scale * cells[1]) != (shape[-2], shape[-1]):
        raise LatentcError(
            f"a value of {shape[-2]}x{shape[-1]} has no whole number of elements of each cell."
        )
    return scale


def _room(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | FileArray:
    """An array to fill, a large one in a file."""
    import numpy as np

    return np.zeros(shape, dtype) if math.prod(shape) * dtype.itemsize < LARGE else FileArray(shape, dtype)


def _moments(array: np.ndarray | FileArray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel's group, float64 [batch, channels]; each channel is read once, by itself.

    Those of channels are put together as Chan, Golub and LeVeque do, "Updating formulae and a pairwise algorithm for
    computing sample variances" (1979).
    """
    import numpy as np

    batch, channels = array.shape[:2]
    group_size = channels // groups
    means, variances = np.empty((2, batch * channels))
    maps = array if isinstance(array, FileArray) else array.reshape(batch * channels, *array.shape[2:])
    for number in range(batch * channels):
        values = maps.map(number) if isinstance(maps, FileArray) else maps[number]
        means[number] = values.mean(dtype=np.float64)
        variances[number] = np.square(values - means[number].astype(array.dtype)).mean(dtype=np.float64)
    means, variances = means.reshape(batch, groups, group_size), variances.reshape(batch, groups, group_size)
    mean = means.mean(-1)
    variance = (variances + np.square(means - mean[..., None])).mean(-1)
    return mean.repeat(group_size, axis=-1), variance.repeat(group_size, axis=-1)
