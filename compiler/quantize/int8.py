"""int8: one scale for each output channel.

Symmetric values are -127..127 with scale max|w| / 127, which is what ONNX Runtime's quantizer makes for
QInt8; asymmetric ones are 0..255 with a zero point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compiler.quantize.blocks import Blocks, nonzero, symmetric
from compiler.quantize.scheme import Format, Scheme, SchemeOptions


@dataclass(frozen=True)
class Int8Options(SchemeOptions):
    """Options of the scheme "int8".

    Attributes:
        asymmetric: a zero point for each output channel: finer for weights that lie to one side of zero.
        small: per cent of a graph's parameters, those in its smallest weights, that are left alone.
    """

    asymmetric: bool = False
    small: int = 1


class Int8(Scheme[Int8Options]):
    """8 bits an element, and one fp32 scale a row. It fits every weight."""

    name = "int8"
    options = Int8Options
    tolerance = 0.15
    candidates = (Int8Options(small=0),)

    def format(self, options: Int8Options) -> Format:
        """INT8, or UINT8 with zero points."""
        element = ir.DataType.UINT8 if options.asymmetric else ir.DataType.INT8
        return Format(element, zero_points=options.asymmetric)

    def quantize(self, rows: np.ndarray, options: Int8Options) -> Blocks:
        """See `scheme.Scheme`."""
        if not options.asymmetric:
            return symmetric(rows, 127)
        low = np.minimum(rows.min(axis=1, keepdims=True), 0)
        high = np.maximum(rows.max(axis=1, keepdims=True), 0)
        # Halves: the range of two numbers near the largest float is no float.
        scale = nonzero((high / 2 - low / 2) * np.float32(2 / 255))
        zero = np.clip(np.rint(-low / scale), 0, 255)
        values = np.clip(np.rint(rows / scale) + zero, 0, 255).astype(np.uint8)
        return Blocks(values, scale, zero.astype(np.uint8))


SCHEME = Int8()
