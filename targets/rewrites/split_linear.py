"""A linear layer whose result is only cut into parts becomes one layer for each part.

GEGLU is written so: one product of twice the width, whose halves are then read apart. Cutting activations copies them,
in some runtimes with a reference kernel; weights are cut as they are written, which costs nothing.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import onnx_ir as ir

from targets.graph.constants import int_attribute
from targets.graph.dims import dims
from targets.graph.edit import add_initializer, alias, insert
from targets.graph.match import sole_maker
from targets.graph.weights import Slice, WeightRef


class SplitLinearPass(ir.passes.InPlacePass):
    """``Split(x W + b)`` over the last axis becomes ``x W_i + b_i`` for each part i.

    What has no axis of tokens is left as it is: a few rows (of modulations) are cheaper to cut than to make one by one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        splits = [n for n in model.graph if n.op_type == "Split" and n.domain == ""]
        done = [node for node in splits if _apart(node, model.graph)]
        return ir.passes.PassResult(model, bool(done))


def _apart(split: ir.Node, graph: ir.Graph) -> bool:
    whole = split.inputs[0]
    shape, widths = dims(whole), [(dims(v) or (None,))[-1] for v in split.outputs]
    if shape is None or len(shape) < 3 or shape[-2] == 1:
        return False
    if int_attribute(split, "axis", 0) not in (-1, len(shape) - 1):
        return False
    product, bias = _linear(whole)
    if product is None:
        return False
    rows, weight = product.inputs[0], product.inputs[1]
    sizes = [width for width in widths if isinstance(width, int)]
    ends = list(accumulate(sizes, initial=0))
    if rows is None or weight is None or not _is_weight(weight, 2):
        return False
    if len(sizes) != len(widths) or ends[-1] != shape[-1]:
        return False
    parts = []
    for out, (start, stop) in zip(split.outputs, pairwise(ends), strict=True):
        inputs = [rows, _cut(weight, 1, start, stop, graph)]
        part = insert(split, "MatMul", inputs, dtype=out.dtype, shape=out.shape, before=True)
        if bias is not None:
            inputs = [part.outputs[0], _cut(bias, 0, start, stop, graph)]
            part = insert(split, "Add", inputs, dtype=out.dtype, shape=out.shape, before=True)
        parts.append(part.outputs[0])
    alias(split, parts)
    return True


def _linear(value: ir.Value | None) -> tuple[ir.Node | None, ir.Value | None]:
    """The product that makes `value`, and the bias that is added to it; neither has another reader."""
    add = sole_maker(value, "Add")
    if add is None:
        return sole_maker(value, "MatMul"), None
    for side in (0, 1):
        product, bias = sole_maker(add.inputs[side], "MatMul"), add.inputs[1 - side]
        # A bias of one element broadcasts: it has no parts.
        if product is not None and _is_weight(bias, 1) and dims(bias) == (dims(value) or ())[-1:]:
            return product, bias
    return None, None


def _is_weight(value: ir.Value | None, rank: int) -> bool:
    weight = None if value is None or value.is_graph_input() else value.const_value
    return isinstance(weight, WeightRef) and len(weight.shape) == rank


def _cut(value: ir.Value, axis: int, start: int, stop: int, graph: ir.Graph) -> ir.Value:
    weight = value.const_value
    assert isinstance(weight, WeightRef)
    name = f"{value.name}.{start}"
    part = weight.then(Slice(axis, start, stop))
    part.name = name
    return add_initializer(graph, part, name)
