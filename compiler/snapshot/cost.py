"""What a graph costs at one set of sizes: multiply-accumulates, and bytes that its nodes write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from targets.graph.constants import constant, int_attribute, ints_attribute
from targets.graph.dims import static
from targets.graph.graph_validity import weightless
from targets.graph.model_copy import copy_of
from targets.graph.shapes import Shapes

# Another view of the same bytes, or data that was there before.
_FREE = frozenset("Constant Flatten Identity Reshape Shape Size Squeeze Unsqueeze".split())


def at_sizes(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """A copy whose inputs have fixed sizes, with the shapes of all values that follow from them.

    Args:
        sizes: of each symbolic dimension. One that is missing stays symbolic, and so does what follows from it.
    """
    fixed = copy_of(model)
    graph = fixed.graph
    for value in graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([_size(d, sizes) for d in value.shape])
    for value in graph.initializers.values():
        if value.const_value is not None:
            value.shape = ir.Shape(value.const_value.shape.numpy())
    for node in graph:
        for value in node.outputs:
            value.shape = None  # in the sizes that torch saw
    _infer(graph)
    if _unknown(graph):
        from onnx_ir.passes import common

        with weightless(fixed):
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(fixed)
        _infer(graph)  # what follows from what onnx alone knows
    return fixed


def _infer(graph: ir.Graph) -> None:
    shapes = Shapes()
    for node in graph:
        shapes.visit(node)
        rule = _SHAPES.get(node.op_type)
        if rule is not None and static(node.outputs[0]) is None:
            shape = rule(node, shapes)
            if shape is not None:
                node.outputs[0].shape = ir.Shape(shape)


def _unknown(graph: ir.Graph) -> bool:
    read = (v for node in graph for v in node.outputs if v.uses() or v.is_graph_output())
    return any(v.type is None or static(v) is None for v in read)


def _windows(node: ir.Node, shapes: Shapes) -> tuple[int, ...] | None:
    """The result of a convolution or pooling."""
    shape = static(node.inputs[0])
    pooling = node.op_type.endswith("Pool")
    kernel = ints_attribute(node, "kernel_shape") if pooling else static(node.inputs[1])
    auto = node.attributes.get("auto_pad")
    if shape is None or kernel is None or (auto is not None and auto.as_string() != "NOTSET"):
        return None
    window = kernel if pooling else kernel[2:]
    rank = len(window)
    pads = ints_attribute(node, "pads") or (0,) * (2 * rank)
    strides, dilations = (ints_attribute(node, name) or (1,) * rank for name in ("strides", "dilations"))
    extra = ints_attribute(node, "output_padding") or (0,) * rank
    up = int_attribute(node, "ceil_mode", 0)
    sizes = []
    for i, (size, k) in enumerate(zip(shape[2:], window, strict=True)):
        covered, around = dilations[i] * (k - 1) + 1, pads[i] + pads[i + rank]
        if node.op_type == "ConvTranspose":
            sizes.append(strides[i] * (size - 1) + extra[i] + covered - around)
        else:
            room = size + around - covered
            sizes.append((-(-room // strides[i]) if up else room // strides[i]) + 1)
    channels = shape[1] if pooling else kernel[0]
    if node.op_type == "ConvTranspose":
        channels = kernel[1] * int_attribute(node, "group", 1)
    return (shape[0], channels, *sizes)


def _resize(node: ir.Node, shapes: Shapes) -> tuple[int, ...] | None:
    shape = static(node.inputs[0])
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        wanted = shapes.contents(node.inputs[3])
        fixed = tuple(size for size in wanted or () if isinstance(size, int))
        return fixed if shape is not None and len(fixed) == len(shape) else None
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if shape is None or scales is None or scales.size != len(shape):
        return None
    return tuple(math.floor(size * float(scale)) for size, scale in zip(shape, scales.tolist(), strict=True))


# What `Shapes` leaves to onnx, whose inference knows no group normalization and so gets no further than the first.
_SHAPES: Mapping[str, Callable[[ir.Node, Shapes], tuple[int, ...] | None]] = {
    "AveragePool": _windows,
    "Conv": _windows,
    "ConvTranspose": _windows,
    "MaxPool": _windows,
    "Resize": _resize,
}


def _size(dimension: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int | ir.SymbolicDim:
    if isinstance(dimension, int):
        return dimension
    return sizes.get(str(dimension.value), dimension)


def flops(node: ir.Node) -> int:
    """Floating-point operations of matrix products and convolutions, two for each multiply-accumulate.

    Element-wise operators and normalizations are not counted, as published figures do not count them. 0 where a
    shape is not known.
    """
    rule = _FLOPS.get(node.op_type)
    return 0 if rule is None or node.domain not in ("", "ai.onnx") else rule(node)


def written(node: ir.Node) -> int:
    """Bytes of the tensors that the node writes.

    What it makes of weights and constants alone is none of a call's: runtimes compute that once, or never.
    """
    if node.op_type in _FREE or not any(v is not None and v.const_value is None for v in node.inputs):
        return 0
    total = 0
    for value in node.outputs:
        shape = static(value)
        if shape is not None and value.dtype is not None:
            total += int(math.prod(shape) * value.dtype.itemsize)
    return total


def unknown(node: ir.Node) -> bool:
    """Whether sizes of what the node writes are not known, so that `flops` and `written` count nothing of it."""
    read = (v for v in node.outputs if v.uses() or v.is_graph_output())
    return any(static(value) is None and not isinstance(value.type, ir.SequenceType) for value in read)


def _matmul(node: ir.Node) -> int:
    out, left = static(node.outputs[0]), static(node.inputs[0])
    return 2 * math.prod(out) * left[-1] if out is not None and left else 0


def _gemm(node: ir.Node) -> int:
    out, left = static(node.outputs[0]), static(node.inputs[0])
    if out is None or left is None:
        return 0
    return 2 * math.prod(out) * left[0 if int_attribute(node, "transA", 0) else 1]


def _conv(node: ir.Node) -> int:
    out, kernel = static(node.outputs[0]), static(node.inputs[1])
    return 2 * math.prod(out) * math.prod(kernel[1:]) if out is not None and kernel else 0


def _conv_transpose(node: ir.Node) -> int:
    shape, kernel = static(node.inputs[0]), static(node.inputs[1])
    return 2 * math.prod(shape) * math.prod(kernel[1:]) if shape is not None and kernel else 0


def _attention(node: ir.Node) -> int:
    query, key, out = static(node.inputs[0]), static(node.inputs[1]), static(node.outputs[0])
    if query is None or key is None or out is None:
        return 0
    # Scores and their product with the values; the axes before the last are (batch, [heads,] tokens).
    return 2 * math.prod(query) * key[-2] + 2 * math.prod(out) * key[-2]


def _einsum(node: ir.Node) -> int:
    terms, _, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for letters, value in zip(terms.split(","), node.inputs, strict=False):
        shape = static(value)
        if shape is None or "." in letters:
            return 0
        sizes.update(zip(letters, shape, strict=False))
    contracted = set(sizes) - set(result)
    return (2 if contracted else 0) * math.prod(sizes.values())


_FLOPS: Mapping[str, Callable[[ir.Node], int]] = {
    "Attention": _attention,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
