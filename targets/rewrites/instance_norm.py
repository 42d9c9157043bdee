"""Group norms as instance norms of whole groups, where a runtime has a kernel for those alone.

ONNX Runtime's CPU takes GroupNormalization apart into a dozen operators, each of which reads and writes the picture.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from targets.graph.dims import dims
from targets.graph.edit import add_constant, alias, insert


class InstanceNormPass(ir.passes.InPlacePass):
    """``GroupNormalization(x, scale, bias)`` becomes ``InstanceNormalization(rows of x) * scale + bias``; a row is
    one group of one picture."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        norms = [n for n in model.graph if n.op_type == "GroupNormalization" and n.domain == ""]
        done = [node for node in norms if _apart(node, model.graph)]
        return ir.passes.PassResult(model, bool(done))


def _apart(norm: ir.Node, graph: ir.Graph) -> bool:
    x, scale, bias = norm.inputs
    assert x is not None and scale is not None and bias is not None
    shape, groups = dims(x), norm.attributes["num_groups"].as_int()
    if shape is None or x.dtype is None or not isinstance(shape[1], int):
        return False
    if not dims(scale) == dims(bias) == (shape[1],):
        return False  # Before opset 21 they are one for each group.
    name, dtype = norm.outputs[0].name, x.dtype
    ones, zeros = (
        add_constant(graph, np.full(groups, number, dtype.numpy()), f"{name}.{label}")
        for number, label in ((1, "ones"), (0, "zeros"))
    )
    split = add_constant(graph, np.array([0, groups, -1], np.int64), f"{name}.groups")
    rows = insert(norm, "Reshape", [x, split], dtype=dtype, shape=(shape[0], groups, None), before=True)
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    inputs = [rows.outputs[0], ones, zeros]
    normed = insert(norm, "InstanceNormalization", inputs, {"epsilon": epsilon}, dtype=dtype, before=True)
    normed.outputs[0].shape = rows.outputs[0].shape
    inputs = [normed.outputs[0], _shape(x, norm, graph)]
    value = insert(norm, "Reshape", inputs, dtype=dtype, shape=x.shape, before=True).outputs[0]
    for op_type, vector in (("Mul", scale), ("Add", bias)):
        inputs = [value, _wide(vector, shape[1], len(shape) - 2, norm, graph)]
        value = insert(norm, op_type, inputs, dtype=dtype, shape=x.shape, before=True).outputs[0]
    alias(norm, [value])
    return True


def _shape(x: ir.Value, before: ir.Node, graph: ir.Graph) -> ir.Value:
    """The shape of `x` for a Reshape of its rows: a constant where one dimension at most is not known beforehand."""
    shape = dims(x)
    assert shape is not None
    sizes = [0, *(size if isinstance(size, int) else -1 for size in shape[1:])]
    if sizes.count(-1) < 2:
        return add_constant(graph, np.array(sizes, np.int64), f"{x.name}.shape")
    return insert(before, "Shape", [x], dtype=ir.DataType.INT64, shape=(len(shape),), before=True).outputs[0]


def _wide(vector: ir.Value, size: int, axes: int, before: ir.Node, graph: ir.Graph) -> ir.Value:
    """[channels] as [channels, 1, ...], to be broadcast over pictures. In the graph: as vectors they stay in fp32."""
    wanted = (size, *(1 for _ in range(axes)))
    to = add_constant(graph, np.array(wanted, np.int64), f"{vector.name}.wide")
    return insert(before, "Reshape", [vector, to], dtype=vector.dtype, shape=wanted, before=True).outputs[0]
