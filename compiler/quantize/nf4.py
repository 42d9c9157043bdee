"""nf4: NormalFloat 4 of QLoRA (Dettmers et al. 2023, appendix E): sixteen quantiles of the normal distribution.

Blocks of 64 along a row are divided by their largest size and rounded to the nearest of the table. For
matrices of products only: no runtime reads it anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compiler.quantize.blocks import Blocks, as_half, nonzero, spread
from compiler.quantize.find import Layout
from compiler.quantize.restore import Parts
from compiler.quantize.scheme import Format, Misfit, Scheme, SchemeOptions, unaveraged
from targets.graph import nf4_nodes
from targets.graph.edit import insert

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
class Nf4Options(SchemeOptions):
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


class NormalFloat:
    """The node of `targets.graph.nf4_nodes`, its values [rows, inner], and a Transpose where they are read turned."""

    turned = False

    def format(self, element: ir.DataType, blocked: bool) -> str:
        """One name for all of it: the element type is the indices'."""
        return nf4_nodes.NAME

    def add(self, graph: ir.Graph, before: ir.Node, parts: Parts) -> ir.Value:
        """See `restore.Restore`."""
        new = nf4_nodes.add(graph, before, parts.values, parts.scale, BLOCK)
        if parts.layout.channel == 0:
            return new
        kind, shape = ir.DataType.FLOAT, parts.layout.shape
        node = insert(before, "Transpose", [new], {"perm": [1, 0]}, dtype=kind, shape=shape, before=True)
        return node.outputs[0]


class Nf4(Scheme[Nf4Options]):
    """4 bits an element, and 16 (or 32) for each 64 of them."""

    name = "nf4"
    options = Nf4Options
    choices: Mapping[str, tuple[object, ...]] = {"scales": ("fp16", "fp32")}
    tolerance = 0.6  # As int4's.
    fallback = "int8"
    candidates = (Nf4Options(small=0),)
    restore = NormalFloat()

    def format(self, options: Nf4Options) -> Format:
        """UINT4: indices into the table."""
        return Format(ir.DataType.UINT4, BLOCK, half_scales=options.scales == "fp16")

    def misfit(self, layout: Layout, options: Nf4Options) -> Misfit | None:
        """What is no product, layers whose errors are not averaged, and rows that 64 does not divide."""
        if layout.kind != "linear" and not layout.is_transposed:
            return Misfit(f"no runtime reads nf4 in {layout.article}")
        return (None if layout.is_transposed else unaveraged(layout)) or super().misfit(layout, options)

    def quantize(self, rows: np.ndarray, options: Nf4Options) -> Blocks:
        """See `scheme.Scheme`."""
        blocks = rows.reshape(-1, BLOCK)
        largest = np.abs(blocks).max(axis=1, keepdims=True)
        scale = nonzero(as_half(largest) if options.scales == "fp16" else largest)
        values = np.searchsorted(_MIDDLES, blocks / scale).astype(np.uint8)
        return Blocks(values.reshape(rows.shape), scale.reshape(rows.shape[0], -1))

    def dequantize(self, blocks: Blocks, options: Nf4Options) -> np.ndarray:
        """The table's numbers, scaled."""
        restored: np.ndarray = TABLE[blocks.values] * spread(blocks.scale, blocks.values.shape[1])
        return restored


SCHEME = Nf4()
