"""nf4: NormalFloat 4 of QLoRA (Dettmers et al. 2023, appendix E): sixteen quantiles of the normal distribution.

Blocks of 64 along a row are divided by their largest size and rounded to the nearest of the table. For
matrices of products only: no runtime reads it anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compiler.quantize.blocks import Blocks, as_half, nonzero, spread

BLOCK = 64

TABLE = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
_MIDDLES = ((TABLE[1:].astype(np.float64) + TABLE[:-1]) / 2).astype(np.float32)


@dataclass(frozen=True)
class Options:
    """Options of the scheme "nf4".

    Attributes:
        scales: how the largest sizes are stored: "fp16" or "fp32".
        low_rank: rank of a correction in fp16 beside the four bits; 0 for none.
        small: per cent of a graph's parameters, those in its smallest weights, that stay at int8: they cost
            little, and a network is most sensitive at its ends, where it is narrow.
    """

    scales: str = "fp16"
    low_rank: int = 0
    small: int = 1


CHOICES: dict[str, tuple[object, ...]] = {"scales": ("fp16", "fp32")}


class Nf4:
    """4 bits an element, and 16 (or 32) for each 64 of them."""

    name = "nf4"
    options: type[Options] = Options

    def block(self, options: Options) -> int | None:
        """64."""
        return BLOCK

    def element(self, options: Options) -> ir.DataType:
        """UINT4: indices into the table."""
        return ir.DataType.UINT4

    def quantize(self, rows: np.ndarray, options: Options) -> Blocks:
        """See `blocks.Scheme`."""
        blocks = rows.reshape(-1, BLOCK)
        largest = np.abs(blocks).max(axis=1, keepdims=True)
        scale = nonzero(as_half(largest) if options.scales == "fp16" else largest)
        values = np.searchsorted(_MIDDLES, blocks / scale).astype(np.uint8)
        return Blocks(values.reshape(rows.shape), scale.reshape(rows.shape[0], -1))

    def dequantize(self, blocks: Blocks, options: Options) -> np.ndarray:
        """See `blocks.Scheme`."""
        restored: np.ndarray = TABLE[blocks.values] * spread(blocks.scale, blocks.values.shape[1])
        return restored


SCHEME = Nf4()
