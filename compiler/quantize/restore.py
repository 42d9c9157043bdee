"""How quantized values become floats in a graph, behind which its nodes read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from compiler.quantize.find import Layout
from targets.graph.edit import add_constant, insert


@dataclass(frozen=True)
class Parts:
    """A quantized weight's initializers.

    Attributes:
        name: of the weight.
        layout: as the graph reads the weight.
        values: of the format's element type. Values of one scale a row, and of matrices where `Restore.turned`, lie as
            the graph reads them; others are [rows, inner].
        scale: float32, [rows], or [rows, blocks], turned like `values`.
        zero: as `scale`, of the format's element type; None where there is none.
    """

    name: str
    layout: Layout
    values: ir.Value
    scale: ir.Value
    zero: ir.Value | None


class Restore(Protocol):
    """One form of nodes.

    Attributes:
        turned: whether it takes a matrix [inner, rows] where the graph reads it so.
    """

    turned: bool

    def format(self, element: ir.DataType, blocked: bool) -> str:
        """What a target must read to have it (`targets.target_contract.Requirements.weight_formats`)."""

    def add(self, graph: ir.Graph, before: ir.Node, parts: Parts) -> ir.Value:
        """Nodes in front of another; what they end in is float32 and has the layout's shape."""


class DequantizeLinear:
    """ONNX's own: ``(values - zero) * scale``, along an axis or in blocks."""

    turned = True

    def format(self, element: ir.DataType, blocked: bool) -> str:
        """ "int8", "blocked int4"."""
        return ("blocked " if blocked else "") + element.name.lower()

    def add(self, graph: ir.Graph, before: ir.Node, parts: Parts) -> ir.Value:
        """One DequantizeLinear, and a Reshape where blocks are of something other than a matrix."""
        layout, stored, scales = parts.layout, _shape(parts.values), _shape(parts.scale)
        attributes: dict[str, Any] = {"axis": layout.channel}
        if len(scales) == 2:
            axis = 1 if len(layout.shape) > 2 or layout.channel == 0 else 0
            attributes = {"axis": axis, "block_size": stored[axis] // scales[axis]}
        inputs = [part for part in (parts.values, parts.scale, parts.zero) if part is not None]
        kind = ir.DataType.FLOAT
        node = insert(before, "DequantizeLinear", inputs, attributes, dtype=kind, shape=stored, before=True)
        if stored != layout.shape:
            shape = add_constant(graph, np.array(layout.shape, np.int64), f"{parts.name}.shape")
            inputs = [node.outputs[0], shape]
            node = insert(before, "Reshape", inputs, {}, dtype=kind, shape=layout.shape, before=True)
        return node.outputs[0]


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(value.shape.numpy())


DEQUANTIZE_LINEAR = DequantizeLinear()
