"""Which initializers of a graph are weights that can be quantized, and how each is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from targets.graph.constants import int_attribute
from targets.graph.weights import Reshape, Transpose, WeightRef

# Smaller ones and vectors (biases, scales of norms) cost nothing and move every channel.
MIN_ELEMENTS = 1024


_ARTICLES = {
    "linear": "a matrix of products",
    "conv": "a convolution",
    "transposed conv": "a transposed convolution",
    "embedding": "an embedding",
}


@dataclass(frozen=True)
class Layout:
    """How a graph reads a weight.

    Attributes:
        kind: "linear" (MatMul, Gemm), "conv", "transposed conv" or "embedding" (Gather).
        shape: of the initializer.
        channel: the axis of output channels (of tokens, for an embedding).
        groups: of a convolution.
    """

    kind: str
    shape: tuple[int, ...]
    channel: int
    groups: int = 1

    @property
    def is_transposed(self) -> bool:
        """Whether it is a transposed convolution's, whose output channels are not its first axis."""
        return self.kind == "transposed conv"

    @property
    def article(self) -> str:
        """For people: "a convolution"."""
        return _ARTICLES[self.kind]

    @property
    def rows(self) -> int:
        """Output channels."""
        return self.shape[self.channel]

    @property
    def inner(self) -> int:
        """Elements of one."""
        return math.prod(self.shape) // self.rows

    @property
    def inputs(self) -> int:
        """Input channels."""
        return self.shape[1] * self.groups if self.kind == "conv" else self.inner


@dataclass(frozen=True)
class QuantizableWeight:
    """An initializer to quantize. `rows` reads it as [layout.rows, layout.inner]."""

    value: ir.Value
    weight: WeightRef
    layout: Layout

    @property
    def key(self) -> str:
        """The stored tensor's name."""
        return self.weight.key

    @property
    def rows(self) -> WeightRef:
        """The weight with output channels first and the rest in one axis."""
        layout = self.layout
        order = (layout.channel, *(i for i in range(len(layout.shape)) if i != layout.channel))
        steps: list[Transpose | Reshape] = [] if layout.channel == 0 else [Transpose(order)]
        if len(layout.shape) > 2:
            steps.append(Reshape((layout.rows, layout.inner)))
        return self.weight.then(*steps)


def find(model: ir.Model) -> list[QuantizableWeight]:
    """All float32 weights of the main graph that every reader uses in one of the ways of `Layout`."""
    result = []
    for value in model.graph.initializers.values():
        weight = value.const_value
        if (
            isinstance(weight, WeightRef)
            and weight.dtype == ir.DataType.FLOAT
            and len(weight.shape) >= 2
            and weight.size >= MIN_ELEMENTS
            and not value.is_graph_input()
            and not value.is_graph_output()
        ):
            layouts = {_layout(use.node, use.idx, model.graph) for use in value.uses()}
            if len(layouts) == 1 and (layout := layouts.pop()) is not None:
                result.append(QuantizableWeight(value, weight, layout))
    return result


def _layout(node: ir.Node, index: int, graph: ir.Graph) -> Layout | None:
    value = node.inputs[index]
    if node.graph is not graph or node.domain not in ("", "ai.onnx") or value is None or value.shape is None:
        return None
    shape = tuple(value.shape.numpy())
    if (node.op_type, index) == ("MatMul", 1) and len(shape) == 2:
        return Layout("linear", shape, 1)
    if (node.op_type, index) == ("Gemm", 1) and _is_plain(node):
        return Layout("linear", shape, 0 if int_attribute(node, "transB", 0) else 1)
    if (node.op_type, index) == ("Conv", 1):
        return Layout("conv", shape, 0, int_attribute(node, "group", 1))
    if (node.op_type, index) == ("ConvTranspose", 1):
        return Layout("transposed conv", shape, 1, int_attribute(node, "group", 1))
    if (node.op_type, index) == ("Gather", 0) and len(shape) == 2 and not int_attribute(node, "axis", 0):
        return Layout("embedding", shape, 0)
    return None


def _is_plain(gemm: ir.Node) -> bool:
    """Whether it is ``x . W + bias``."""
    factors = [gemm.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    return factors == [1.0, 1.0] and not int_attribute(gemm, "transA", 0)
