"""One weight at a time: read, checked, quantized in chunks, measured, and put on disk again."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from artifacts.errors import LatentcError
from artifacts.processors import processors
from compiler.quantize import low_rank
from compiler.quantize.blocks import Blocks, is_half
from compiler.quantize.decide import Decision
from compiler.quantize.find import QuantizableWeight
from compiler.quantize.scheme import Format
from targets.graph.weights import Cast, Reshape, Slice, Stored, Transpose, WeightRef

# Elements worked on at once: their temporary arrays stay in a processor's cache.
_CHUNK = 1 << 17
_THREADS = min(4, processors())


@dataclass(frozen=True)
class QuantizedWeight:
    """What was made of one weight.

    Attributes:
        values, scale, zero: in the scratch file. Values lie as the graph reads them ([in, out] for a MatMul),
            or [rows, inner] where `decision`'s scheme has blocks and the weight is no matrix, or is not turned.
        left, right: fp16 [rows, rank] and [rank, inner], or None.
        inputs: see `ChosenValues`.
        error: ``||restored - weight|| / ||weight||``; of a weight of zeros 0, or 1 where it is restored to others.
        bytes: on disk, all of it.
    """

    initializer: QuantizableWeight
    decision: Decision
    values: Stored
    scale: Stored
    zero: Stored | None
    left: Stored | None
    right: Stored | None
    inputs: np.ndarray | None
    error: float
    bytes: int


@dataclass(frozen=True)
class ChosenValues:
    """A weight's values as another algorithm than its scheme's has chosen them.

    Attributes:
        inputs: float32 [inner] that the layer's input is multiplied by, for the values are those of a weight that
            was divided by it; None for ones.
    """

    blocks: Blocks
    inputs: np.ndarray | None

    def rows(self, part: slice) -> Blocks:
        """Some of the rows."""
        blocks = self.blocks
        return Blocks(
            blocks.values[part], blocks.scale[part], None if blocks.zero is None else blocks.zero[part]
        )


class Scratch:
    """A file that tensors are appended to and read back from. The caller removes it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offset = 0
        file.touch(exist_ok=False)

    def write(self, array: np.ndarray, dtype: ir.DataType, key: str) -> Stored:
        """Appends an array; four-bit elements come one to a byte and are packed."""
        shape = array.shape
        array = np.ascontiguousarray(array)
        if dtype.bitwidth == 4:
            flat = array.reshape(-1).view(np.uint8)
            packed = flat[::2] & 15
            packed[: flat.size // 2] |= flat[1::2] << 4
            array = packed
        with self.file.open("r+b") as stream:
            stream.seek(0, os.SEEK_END)
            array.tofile(stream)
        stored = Stored(self.file, key, dtype, shape, self._offset, array.nbytes)
        self._offset += array.nbytes
        return stored


def quantize(
    initializer: QuantizableWeight,
    decision: Decision,
    scratch: Scratch,
    chosen_values: ChosenValues | None = None,
) -> QuantizedWeight:
    """Quantizes one weight into `scratch`.

    Args:
        decision: one with a scheme.
        chosen_values: the values; by default those that the scheme finds.

    Raises:
        LatentcError: the weight holds NaN or infinity, or does so after it was quantized.
    """
    scheme, options, layout = decision.scheme, decision.options, initializer.layout
    assert scheme is not None
    form = scheme.format(options)
    rows = _without_widening(initializer.rows).numpy()
    left = right = None
    if decision.low_rank:
        rows = rows.astype(np.float32)
        _require_finite(rows, initializer.key)
        left, right = low_rank.split(rows, decision.low_rank)
    block, element = form.block or layout.inner, form.element
    values = np.empty((layout.rows, layout.inner), element.numpy() if element.bitwidth == 8 else np.uint8)
    scale = np.empty((layout.rows, layout.inner // block), np.float32)
    zero = np.empty(scale.shape, np.uint8) if form.zero_points else None
    step = max(1, _CHUNK // layout.inner)

    def chunk(start: int) -> tuple[float, float]:
        """Quantizes some rows; the squares of what was lost and of all."""
        part = slice(start, start + step)
        wanted = rows[part].astype(np.float32)
        _require_finite(wanted, initializer.key)
        correction = None
        if left is not None and right is not None:
            correction = left[part].astype(np.float32) @ right.astype(np.float32)
        if chosen_values is None:
            blocks = scheme.quantize(wanted if correction is None else wanted - correction, options)
        else:
            blocks = chosen_values.rows(part)
        restored = scheme.dequantize(blocks, options)
        if chosen_values is not None and chosen_values.inputs is not None:
            restored *= chosen_values.inputs
        if correction is not None:
            restored = restored + correction
        values[part], scale[part] = blocks.values.view(values.dtype), blocks.scale
        if zero is not None:
            assert blocks.zero is not None
            zero[part] = blocks.zero
        lost = float(np.sum(np.square(restored - wanted, dtype=np.float64)))
        return lost, float(np.sum(np.square(wanted, dtype=np.float64)))

    # NumPy lets go of the interpreter while it computes.
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(chunk, range(0, layout.rows, step)))
    lost, total = (sum(column) for column in zip(*sums, strict=True))
    error = (lost / total) ** 0.5 if total else float(lost > 0)
    if not math.isfinite(error):
        raise LatentcError(
            f"the weight '{initializer.key}' is not finite in {decision.label}: its error cannot be measured.",
            f'Leave it as it is: a recipe\'s rule match = "{initializer.key}", scheme = "none".',
        )
    stored = _Writer(initializer, form, scheme.restore.turned, scratch)
    wrote = (
        stored.values(values),
        stored.scale(scale),
        None if zero is None else stored.zero(zero),
        None if left is None else scratch.write(left, ir.DataType.FLOAT16, f"{initializer.key}.left"),
        None if right is None else scratch.write(right, ir.DataType.FLOAT16, f"{initializer.key}.right"),
    )
    size = sum(part.nbytes for part in wrote if part is not None)
    inputs = None if chosen_values is None else chosen_values.inputs
    if inputs is not None:
        size += 2 * inputs.size  # in the graph's precision
    return QuantizedWeight(initializer, decision, *wrote, inputs, error, size)


@dataclass(frozen=True)
class _Writer:
    """Turns rows into the layout that the graph reads."""

    initializer: QuantizableWeight
    form: Format
    turned: bool
    scratch: Scratch

    @property
    def _by_row(self) -> bool:
        return self.form.block is None

    def values(self, array: np.ndarray) -> Stored:
        layout = self.initializer.layout
        if self._by_row and len(layout.shape) > 2:
            first = (layout.rows, *(n for i, n in enumerate(layout.shape) if i != layout.channel))
            array = np.moveaxis(array.reshape(first), 0, layout.channel)
        elif self._turned:
            array = array.T
        return self.scratch.write(array, self.form.element, self.initializer.key)

    def scale(self, array: np.ndarray) -> Stored:
        dtype = ir.DataType.FLOAT
        if self.form.half_scales and is_half(array):
            dtype, array = ir.DataType.FLOAT16, array.astype(np.float16)
        return self.scratch.write(self._turn(array), dtype, f"{self.initializer.key}.scale")

    def zero(self, array: np.ndarray) -> Stored:
        return self.scratch.write(self._turn(array), self.form.element, f"{self.initializer.key}.zero_point")

    @property
    def _turned(self) -> bool:
        layout = self.initializer.layout
        return layout.channel == 1 and len(layout.shape) == 2 and self.turned

    def _turn(self, per_block: np.ndarray) -> np.ndarray:
        if self._by_row:
            return per_block[:, 0]
        return per_block.T if self._turned else per_block


def _without_widening(weight: WeightRef) -> WeightRef:
    """The weight in its stored type, where its steps only move and widen elements: they are widened in chunks."""
    if all(
        isinstance(s, (Transpose, Reshape, Slice)) or s == Cast(ir.DataType.FLOAT) for s in weight.transforms
    ):
        return WeightRef(weight.source, tuple(s for s in weight.transforms if not isinstance(s, Cast)))
    return weight


def _require_finite(array: np.ndarray, key: str) -> None:
    if not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise LatentcError(
            f"the weight '{key}' holds NaN or infinity (at least {count} elements): it cannot be quantized.",
            f'Repair the model, or leave the weight as it is: a recipe\'s rule match = "{key}", scheme = "none".',
        )
