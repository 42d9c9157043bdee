"""A low-rank correction in the graph: ``+ (x . R') . L'`` behind a product with W = residual + L.R.

Behind a convolution it is two convolutions: R's kernels at W's stride, then L's of size 1.
"""

from __future__ import annotations

import onnx_ir as ir

from compiler.quantize.stream import QuantizedWeight
from targets.graph.edit import add_initializer, insert
from targets.graph.weights import Reshape, Stored, Transform, Transpose, WeightRef


def correct(graph: ir.Graph, weight: QuantizedWeight, name: str, node: ir.Node) -> None:
    """Adds the correction of `weight` to `node`, a MatMul, Gemm or Conv that reads the weight."""
    layout, rank = weight.initializer.layout, weight.decision.low_rank
    assert weight.left is not None and weight.right is not None
    first, out = node.inputs[0], node.outputs[0]
    readers = [(use.node, use.idx) for use in out.uses()]
    is_conv = layout.kind == "conv"
    steps: tuple[Transform, Transform] = (
        (Reshape((rank, *layout.shape[1:])), Reshape((layout.rows, rank, *(1 for _ in layout.shape[2:]))))
        if is_conv
        else (Transpose((1, 0)), Transpose((1, 0)))
    )
    right = _matrix(graph, weight.right, steps[0], f"{name}.right", node)
    left = _matrix(graph, weight.left, steps[1], f"{name}.left", node)
    attributes = {n: a for n, a in node.attributes.items() if n != "kernel_shape"} if is_conv else {}
    op_type = "Conv" if is_conv else "MatMul"
    inner = insert(node, op_type, [first, right], attributes, dtype=ir.DataType.FLOAT)
    outer = insert(inner, op_type, [inner.outputs[0], left], dtype=ir.DataType.FLOAT, shape=out.shape)
    total = insert(outer, "Add", [out, outer.outputs[0]], dtype=ir.DataType.FLOAT, shape=out.shape).outputs[0]
    for reader, index in readers:
        reader.replace_input_with(index, total)
    for index, value in enumerate(graph.outputs):
        if value is out:
            out.name, total.name = f"{out.name}.uncorrected", out.name
            graph.outputs[index] = total


def _matrix(graph: ir.Graph, stored: Stored, step: Transform, name: str, before: ir.Node) -> ir.Value:
    """A factor as the graph needs it: fp16 on disk, fp32 in the graph."""
    value = add_initializer(graph, WeightRef(stored, (step,), name), name)
    assert value.const_value is not None
    value.const_value.name = value.name
    up = insert(
        before, "Cast", [value], {"to": int(ir.DataType.FLOAT)},
        dtype=ir.DataType.FLOAT, shape=value.shape, before=True,
    )  # fmt: skip
    return up.outputs[0]
