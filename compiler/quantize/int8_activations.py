"""int8-activations: int8 weights, and int8 activations in front of them with ranges from calibration (W8A8).

The weights' half is `int8`'s; the activations' half is `compiler.quantize.int8_ranges`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compiler.quantize.blocks import Blocks, symmetric
from compiler.quantize.find import Layout
from compiler.quantize.scheme import Activations, Format, Misfit, Scheme, SchemeOptions


@dataclass(frozen=True)
class Int8ActivationsOptions(SchemeOptions):
    """Options of the scheme "int8-activations".

    Attributes:
        limit: largest error of an activation, in thousandths of its size, as calibration measured it; a layer
            whose input is further off stays with int8 weights only.
        bits: of the weights. x86 processors without VNNI add pairs of products in 16 bits, which 8-bit weights
            overflow, silently; 7 bits are right everywhere. 8 are for processors with VNNI or AMX and for GPUs.
        smooth: move outliers of activations into the weights behind them (SmoothQuant), where that lowers the error.
        small: per cent of a graph's parameters, those in its smallest weights, whose layers are left alone.
    """

    limit: int = 30
    bits: int = 7
    smooth: bool = True
    small: int = 1


class Int8Activations(Scheme[Int8ActivationsOptions]):
    """Weights as `int8`, symmetric (kernels want no zero points on both sides), over 7 bits or 8."""

    name = "int8-activations"
    options = Int8ActivationsOptions
    choices: Mapping[str, tuple[object, ...]] = {"bits": (7, 8)}
    tolerance = 0.3
    fallback = "int8"

    def format(self, options: Int8ActivationsOptions) -> Format:
        """INT8, whatever the bits."""
        return Format(ir.DataType.INT8)

    def quantize(self, rows: np.ndarray, options: Int8ActivationsOptions) -> Blocks:
        """See `scheme.Scheme`."""
        return symmetric(rows, _top(options))

    def misfit(self, layout: Layout, options: Int8ActivationsOptions) -> Misfit | None:
        """Products and convolutions have an input to quantize."""
        return None if layout.kind in ("linear", "conv") else Misfit(layout.article)

    def for_speed(self, wide_products: bool) -> Int8ActivationsOptions:
        """8 bits where their products do not overflow."""
        return Int8ActivationsOptions(bits=8 if wide_products else 7)

    def activations(self, options: Int8ActivationsOptions) -> Activations:
        """In 8 bits."""
        return Activations(options.limit, options.smooth, _top(options))


def _top(options: Int8ActivationsOptions) -> int:
    return int(2 ** (options.bits - 1) - 1)


SCHEME = Int8Activations()
