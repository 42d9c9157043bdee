"""What every weight scheme works on: rows of a weight, cut into blocks that share a scale.

A weight is seen as float32 [rows, inner]: a row makes one output channel (or is one token's embedding), and
`inner` is what a matrix product or a convolution sums over. Schemes never see a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """Quantized rows.

    Attributes:
        values: int8 or uint8 [rows, inner], one element to a byte whatever its width.
        scale: float32 [rows, blocks]; blocks divide `inner` evenly.
        zero: uint8 [rows, blocks], or None where the zero point is 0.
    """

    values: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None = None


def spread(per_block: np.ndarray, inner: int) -> np.ndarray:
    """[rows, blocks] -> [rows, inner] (a view where there is one block a row)."""
    rows, blocks = per_block.shape
    if blocks == 1:
        return np.broadcast_to(per_block, (rows, inner))
    return np.repeat(per_block, inner // blocks, axis=1)


def affine(blocks: Blocks) -> np.ndarray:
    """``(values - zero) * scale`` as float32, which is what ONNX's DequantizeLinear computes."""
    inner = blocks.values.shape[1]
    values = blocks.values.astype(np.float32)
    if blocks.zero is not None:
        values -= spread(blocks.zero.astype(np.float32), inner)
    values *= spread(blocks.scale, inner)
    return values


# fp16's smallest normal number and its largest: between them rounding costs at most one part in 2048.
_NORMAL = (2.0**-14, 65504.0)


def as_half(scale: np.ndarray) -> np.ndarray:
    """Scales rounded to fp16, in float32; those that fp16 holds badly stay as they are."""
    size = np.abs(scale)
    rounds = (size >= _NORMAL[0]) & (size <= _NORMAL[1])
    with np.errstate(over="ignore"):
        return np.where(rounds, scale.astype(np.float16).astype(np.float32), scale)


def is_half(scale: np.ndarray) -> bool:
    """Whether fp16 holds every scale exactly."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(scale.astype(np.float16).astype(np.float32), scale))


def nonzero(scale: np.ndarray) -> np.ndarray:
    """Scales of blocks that are zero throughout, or too small to divide by, become 1."""
    return np.where(np.abs(scale) < np.finfo(np.float32).tiny, np.float32(1), scale)


def symmetric(rows: np.ndarray, top: int) -> Blocks:
    """Rows over the whole numbers from -top to top, one scale each."""
    scale = nonzero(np.max(np.abs(rows), axis=1, keepdims=True) / np.float32(top))
    return Blocks(np.clip(np.rint(rows / scale), -top, top).astype(np.int8), scale)
