"""int8-activations: int8 weights, and int8 activations in front of them with ranges from calibration (W8A8).

The weights' half is `int8`'s; the activations' half is `quantize.activations`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compiler.quantize import int8
from compiler.quantize.blocks import Blocks


@dataclass(frozen=True)
class Options:
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


CHOICES: dict[str, tuple[object, ...]] = {"bits": (7, 8)}


class Int8Activations:
    """Weights as `int8`, symmetric (kernels want no zero points on both sides), over 7 bits or 8."""

    name = "int8-activations"
    options: type[Options] = Options

    def block(self, options: Options) -> int | None:
        """None: the whole row."""
        return None

    def element(self, options: Options) -> ir.DataType:
        """INT8."""
        return ir.DataType.INT8

    def quantize(self, rows: np.ndarray, options: Options) -> Blocks:
        """See `blocks.Scheme`."""
        return int8.symmetric(rows, 2 ** (options.bits - 1) - 1)

    def dequantize(self, blocks: Blocks, options: Options) -> np.ndarray:
        """See `blocks.Scheme`."""
        return int8.SCHEME.dequantize(blocks, int8.Options())


SCHEME = Int8Activations()
