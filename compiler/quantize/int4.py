"""int4: blocks of 32, 64 or 128 elements along what is summed, each with an fp16 scale.

The scale is the one of a few that leaves the smallest squared error; ``scale=max`` takes the largest
element's, as ONNX Runtime's and NNCF's plain quantizers do. Symmetric values are -8..7: the element that is
largest in size lands on -8, whatever its sign, so scales may be negative.

``method`` leaves the choice for matrices of products to an algorithm that knows what they are multiplied with: see
`compiler.quantize.data_aware`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from artifacts.errors import UsageError
from compiler.quantize.blocks import Blocks, as_half, nonzero
from compiler.quantize.find import Layout
from compiler.quantize.method_table import METHODS
from compiler.quantize.scheme import NO_METHOD, Format, Misfit, Scheme, SchemeOptions, unaveraged

GROUPS = (128, 64, 32)

# Shares of the largest element's scale that are tried. Below 1 the largest elements are clipped and all
# others are finer; a little above 1 the grid may happen to fit better.
_SHARES = np.array([1, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1], np.float32)


@dataclass(frozen=True)
class Int4Options(SchemeOptions):
    """Options of the scheme "int4".

    Attributes:
        group: elements that share a scale: 32, 64 or 128.
        asymmetric: a zero point for each group.
        scale: "mse" for the scale with the smallest squared error, "max" for the largest element's.
        scales: how scales are stored: "fp16" or "fp32".
        positive: scales are above zero (TensorRT takes no others): a little worse than either sign.
        low_rank: rank of a correction in fp16 beside the four bits; 0 for none.
        small: per cent of a graph's parameters, those in its smallest weights, that stay at int8: they cost
            little, and a network is most sensitive at its ends, where it is narrow.
        method: "awq", "scale-estimation" or "gptq" where values are to follow the data; "none" where not.

    Raises:
        UsageError: a method together with `low_rank` or `positive`, which none of them knows.
    """

    group: int = 64
    asymmetric: bool = False
    scale: str = "mse"
    scales: str = "fp16"
    positive: bool = False
    low_rank: int = 0
    small: int = 1
    method: str = NO_METHOD

    def __post_init__(self) -> None:
        other = "low_rank" if self.low_rank else "positive" if self.positive else ""
        if self.method != NO_METHOD and other:
            raise UsageError(
                f"int4:method={self.method} cannot be had with '{other}'.", f"Leave '{other}' out"
            )


class Int4(Scheme[Int4Options]):
    """4 bits an element, 16 (or 32) a group for its scale, and 4 for a zero point."""

    name = "int4"
    options = Int4Options
    choices: Mapping[str, tuple[object, ...]] = {
        "group": tuple(sorted(GROUPS)),
        "scale": ("mse", "max"),
        "scales": ("fp16", "fp32"),
        "method": (NO_METHOD, *METHODS),
    }
    labelled = ("group",)
    # Rounding to 4 bits moves each weight by a tenth of its size: the check finds a wrong graph, and whether the
    # pictures are good is for pictures to say.
    tolerance = 0.6
    fallback = "int8"
    candidates = (
        *(Int4Options(group=group, small=0) for group in GROUPS),
        Int4Options(small=0, low_rank=16),
    )

    def format(self, options: Int4Options) -> Format:
        """INT4, or UINT4 with zero points."""
        return Format(
            ir.DataType.UINT4 if options.asymmetric else ir.DataType.INT4,
            options.group,
            zero_points=options.asymmetric,
            half_scales=options.scales == "fp16",
            negative_scales=not options.asymmetric and not options.positive,
        )

    def misfit(self, layout: Layout, options: Int4Options) -> Misfit | None:
        """Rows that no group divides, and layers whose errors are not averaged; a smaller group, where one divides."""
        few = None if layout.is_transposed else unaveraged(layout)
        misfit = few or super().misfit(layout, options)
        if misfit is None or few or layout.is_transposed:
            return misfit
        group = next((group for group in GROUPS if group < options.group and not layout.inner % group), None)
        if group is None:
            return Misfit(f"{layout.inner} inputs are no multiple of {min(GROUPS)}")
        return Misfit(f"group {group}: {misfit.why}", options.replaced(group=group))

    def quantize(self, rows: np.ndarray, options: Int4Options) -> Blocks:
        """See `scheme.Scheme`."""
        blocks = rows.reshape(-1, options.group)
        shares = _SHARES if options.scale == "mse" else np.ones(1, np.float32)
        values, scale, zero = (_asymmetric if options.asymmetric else _symmetric)(blocks, shares, options)
        shape = (rows.shape[0], rows.shape[1] // options.group)
        return Blocks(
            values.reshape(rows.shape), scale.reshape(shape), None if zero is None else zero.reshape(shape)
        )


def _rounded(scale: np.ndarray, options: Int4Options) -> np.ndarray:
    return nonzero(as_half(scale) if options.scales == "fp16" else scale)


def _symmetric(
    blocks: np.ndarray, shares: np.ndarray, options: Int4Options
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """[n, group] -> int8 values [n, group], scale [n, 1], no zero points."""
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    base = np.abs(peak) / np.float32(7) if options.positive else -peak / np.float32(8)
    none = np.zeros_like(base)
    grids = [(_rounded(base * share, options), none) for share in shares]
    scale, _ = _best(blocks, grids, -8, 7)
    values = np.clip(np.rint(blocks / scale), -8, 7)
    return values.astype(np.int8), scale, None


def _asymmetric(
    blocks: np.ndarray, shares: np.ndarray, options: Int4Options
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """[n, group] -> uint8 values [n, group], scale [n, 1], uint8 zero points [n, 1]."""
    low = np.minimum(blocks.min(axis=1, keepdims=True), 0)
    high = np.maximum(blocks.max(axis=1, keepdims=True), 0)
    base = (high / 2 - low / 2) * np.float32(2 / 15)
    grids = []
    for share in shares:
        scale = _rounded(base * share, options)
        grids.append((scale, np.clip(np.rint(-low * share / scale), 0, 15)))
    scale, zero = _best(blocks, grids, 0, 15)
    values = np.clip(np.rint(blocks / scale) + zero, 0, 15)
    return values.astype(np.uint8), scale, zero.astype(np.uint8)


def _best(
    blocks: np.ndarray, grids: list[tuple[np.ndarray, np.ndarray]], low: int, high: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of several grids (scale [n, 1], zero point [n, 1]), for each block the one nearest to it in square."""
    if len(grids) == 1:
        return grids[0]
    # Blocks in columns: arithmetic with one number for each then runs along memory.
    columns = np.ascontiguousarray(blocks.T)
    buffer = np.empty_like(columns)
    # Squares of much smaller and larger numbers are not fp32's.
    size = float(np.max(np.abs(blocks), initial=0))
    wide = np.float32 if size == 0 or 1e-12 < size < 1e15 else np.float64
    best = grids[0]
    least: np.ndarray | None = None
    for scale, zero in grids:
        error = _error(columns, scale[:, 0], zero[:, 0], low, high, buffer, wide)
        if least is None:
            least = error
            continue
        better = (error < least)[:, None]
        best = (np.where(better, scale, best[0]), np.where(better, zero, best[1]))
        least = np.minimum(least, error)
    return best


def _error(
    columns: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    low: int,
    high: int,
    buffer: np.ndarray,
    wide: type[np.floating],
) -> np.ndarray:
    """Squared error [n] of each column of [group, n] on one grid; `buffer` is overwritten."""
    np.divide(columns, scale, out=buffer)
    np.rint(buffer, out=buffer)
    # numpy.clip takes three times as long with arrays for bounds.
    np.maximum(buffer, low - zero, out=buffer)
    np.minimum(buffer, high - zero, out=buffer)
    np.multiply(buffer, scale, out=buffer)
    np.subtract(buffer, columns, out=buffer)
    if wide is np.float32:
        np.multiply(buffer, buffer, out=buffer)
        return np.asarray(buffer.sum(axis=0))
    return np.asarray(np.square(buffer, dtype=wide).sum(axis=0))


SCHEME = Int4()
