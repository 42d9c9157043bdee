"""Attention as ONNX Runtime's own MultiHeadAttention, whose kernel never holds all scores at once.

Its inputs are [batch, tokens, heads * size]: queries, keys and values before they are split into heads, and so without
the transposes that the products need.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from targets.graph.constants import constant, int_attribute, ints_attribute
from targets.graph.dims import dims, same
from targets.graph.edit import add_constant, alias, insert
from targets.graph.match import maker, sole_reader

MICROSOFT = "com.microsoft"

_HEADS = (0, 2, 1, 3)


class MultiHeadAttentionPass(ir.passes.InPlacePass):
    """``Softmax(q k^T) v`` over heads becomes one node, where there is no mask and tokens come and leave in rows."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        softmaxes = [n for n in model.graph if n.op_type == "Softmax" and n.domain == ""]
        done = [node for node in softmaxes if _fuse(node, model.graph)]
        if done:
            model.graph.opset_imports[MICROSOFT] = 1
        return ir.passes.PassResult(model, bool(done))


def _fuse(softmax: ir.Node, graph: ir.Graph) -> bool:
    scores = softmax.inputs[0]
    product, end = maker(scores, "MatMul"), sole_reader(softmax.outputs[0], "MatMul")
    turned = None if end is None else sole_reader(end.outputs[0], "Transpose")
    if product is None or end is None or turned is None or len(scores.uses()) != 1:  # type: ignore[union-attr]
        return False
    if int_attribute(softmax, "axis", -1) not in (-1, 3) or end.inputs[0] is not softmax.outputs[0]:
        return False
    number, bare = _scale(product.inputs[0])
    # [batch, tokens, heads, size] each.
    rows = [_rows(bare, _HEADS), _rows(product.inputs[1], (0, 2, 3, 1)), _rows(end.inputs[1], _HEADS)]
    result = turned.outputs[0]
    if ints_attribute(turned, "perm") != _HEADS or any(
        r is None or r.dtype != ir.DataType.FLOAT for r in rows
    ):
        return False
    sizes = [dims(r) for r in rows]
    if any(s is None or len(s) != 4 or not isinstance(s[2], int) or not isinstance(s[3], int) for s in sizes):
        return False
    queries, keys, values = sizes
    assert queries is not None and keys is not None and values is not None
    if len({s[2] for s in (queries, keys, values)}) != 1 or queries[3] != keys[3]:
        return False
    if len({queries[0], keys[0], values[0]}) != 1 or queries[0] is None:
        return False  # The kernel does not broadcast.
    flat = [_flat(value, turned, graph) for value in rows if value is not None]
    out = dims(result)
    fused = insert(
        turned,
        "MultiHeadAttention",
        flat,
        {"num_heads": queries[2], "scale": number},
        dtype=result.dtype,
        shape=None if out is None else (*out[:2], values[2] * values[3]),  # type: ignore[operator]
        before=True,
    )
    fused.domain = MICROSOFT
    shape = add_constant(graph, np.array([0, 0, *values[2:]], np.int64), f"{result.name}.heads")
    split = insert(
        turned, "Reshape", [fused.outputs[0], shape], dtype=result.dtype, shape=result.shape, before=True
    )
    alias(turned, split.outputs)
    return True


def _scale(queries: ir.Value | None) -> tuple[float, ir.Value | None]:
    """The number that the queries are multiplied by, and the queries without it."""
    node = maker(queries, "Mul")
    for side in (1, 0) if node is not None else ():
        assert node is not None
        number, other = constant(node.inputs[side]), node.inputs[1 - side]
        # A scale of zero stands for the kernel's own.
        if number is not None and number.size == 1 and number.any() and same(dims(other), dims(queries)):
            return float(number.reshape(())), other
    return 1.0, queries


def _rows(value: ir.Value | None, perm: tuple[int, ...]) -> ir.Value | None:
    """What `value` is a transpose of, by `perm` from [batch, tokens, heads, size]."""
    node = maker(value, "Transpose")
    return node.inputs[0] if node is not None and ints_attribute(node, "perm") == perm else None


def _flat(value: ir.Value, before: ir.Node, graph: ir.Graph) -> ir.Value:
    """[batch, tokens, heads, size] as [batch, tokens, heads * size]; what was flat before is that again."""
    shape = dims(value)
    assert shape is not None
    width = shape[2] * shape[3]  # type: ignore[operator]
    split = maker(value, "Reshape")
    if split is not None and same(dims(split.inputs[0]), (*shape[:2], width)):
        assert split.inputs[0] is not None
        return split.inputs[0]
    to = add_constant(graph, np.array([0, 0, width], np.int64), f"{value.name}.flat")
    flat = insert(before, "Reshape", [value, to], dtype=value.dtype, shape=(*shape[:2], width), before=True)
    return flat.outputs[0]
