"""Attention in the form that runtimes fuse: ``Softmax(MatMul(q * scale, k^T) [+ mask]) v``.

PyTorch's exporter splits the scale between queries and keys, turns the keys about through a 3-D reshape and
guards masked rows against NaN. OpenVINO fuses any of these into one kernel but leaves the scaling of the
keys, the reshapes and the guards outside of it; ONNX Runtime runs each as written. Scaling the queries, not
the scores, touches the fewest elements and keeps the scores small in fp16.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from targets.graph.constants import constant, ints_attribute
from targets.graph.dims import Dims, dims, same
from targets.graph.edit import add_constant, alias, insert, remove
from targets.graph.match import maker

# Only the place of elements changes: a mask behind these is as finite, and as zero, as before them.
_MOVES = frozenset({"Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Slice", "Identity", "Concat"})


class SdpaPass(ir.passes.InPlacePass):
    """Merges the scales, shortens the keys' path, and drops masks of zeros and guards that cannot trigger."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for softmax in [n for n in graph if n.op_type == "Softmax" and n.domain == ""]:
            scores = softmax.inputs[0]
            mask: ir.Value | None = None
            add = maker(scores, "Add")
            if add is not None:
                product, mask = _product_and_mask(add)
            else:
                product = maker(scores, "MatMul")
            if product is None:
                continue
            modified |= _untangle_keys(product, graph)
            modified |= _merge_scales(product, graph)
            if add is not None and mask is not None:
                modified |= _narrow_mask(add, mask)
                if _is_zero(mask) and same(dims(product.outputs[0]), dims(add.outputs[0])):
                    alias(add, [product.outputs[0]])
                    mask, modified = None, True
            if mask is None or _is_finite(mask):
                modified |= _drop_guard(softmax)
        return ir.passes.PassResult(model, modified)


def _product_and_mask(add: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    for side in (0, 1):
        product = maker(add.inputs[side], "MatMul")
        if product is not None and same(dims(product.outputs[0]), dims(add.outputs[0])):
            return product, add.inputs[1 - side]
    return None, None


# --- keys ------------------------------------------------------------------------------------------


def _untangle_keys(product: ir.Node, graph: ir.Graph) -> bool:
    """Reshape to 3-D, Transpose, Reshape back becomes one Transpose of the last two axes."""
    scaled = maker(product.inputs[1], "Mul")
    back = maker(product.inputs[1], "Reshape")
    if scaled is not None:
        back = maker(scaled.inputs[0], "Reshape") or maker(scaled.inputs[1], "Reshape")
    turn = None if back is None else maker(back.inputs[0], "Transpose")
    flat = None if turn is None else maker(turn.inputs[0], "Reshape")
    if back is None or turn is None or flat is None or ints_attribute(turn, "perm") != (0, 2, 1):
        return False
    keys = flat.inputs[0]
    assert keys is not None
    shape, middle, out = dims(keys), dims(flat.outputs[0]), dims(back.outputs[0])
    if shape is None or middle is None or out is None or len(shape) < 3 or len(middle) != 3:
        return False
    if not _all_known(shape) or middle[1:] != shape[-2:] or out != (*shape[:-2], shape[-1], shape[-2]):
        return False
    rank = len(shape)
    perm = (*range(rank - 2), rank - 1, rank - 2)
    inner = maker(keys, "Transpose")
    if inner is not None and (first := ints_attribute(inner, "perm")) is not None:
        keys, perm = inner.inputs[0], tuple(first[i] for i in perm)
    new = insert(
        back, "Transpose", [keys], {"perm": perm}, dtype=back.outputs[0].dtype, shape=back.outputs[0].shape
    )
    alias(back, new.outputs)
    return True


def _all_known(shape: Dims) -> bool:
    return None not in shape


# --- scales ----------------------------------------------------------------------------------------


def _scale(value: ir.Value | None) -> tuple[ir.Node, ir.Value, np.ndarray] | None:
    """The Mul by one number that makes `value`: the node, what it multiplies, and the number."""
    node = maker(value, "Mul")
    if node is None:
        return None
    for side in (1, 0):
        array, other = constant(node.inputs[side]), node.inputs[1 - side]
        if array is None or array.size != 1 or other is None or other.dtype != ir.DataType.FLOAT:
            continue
        if same(dims(other), dims(node.outputs[0])):
            return node, other, array.reshape(())
    return None


def _merge_scales(product: ir.Node, graph: ir.Graph) -> bool:
    """``(q * a)(k * b)`` becomes ``(q * ab) k``. Only Muls that nothing else reads."""
    keys = _scale(product.inputs[1])
    if keys is None:
        return False
    queries = _scale(product.inputs[0])
    node, bare, number = keys
    base = product.inputs[0]
    assert base is not None
    total = np.float64(number)
    if queries is not None and len(queries[0].outputs[0].uses()) == 1:
        base, total = queries[1], total * np.float64(queries[2])
    scale = add_constant(graph, np.array(total, np.float32), f"{product.outputs[0].name}.scale")
    new = insert(product, "Mul", [base, scale], dtype=ir.DataType.FLOAT, shape=base.shape, before=True)
    product.replace_input_with(0, new.outputs[0])
    product.replace_input_with(1, bare)
    for old in (node, None if queries is None else queries[0]):
        if old is not None:
            remove(old)
    return True


# --- masks -----------------------------------------------------------------------------------------


def _narrow_mask(add: ir.Node, mask: ir.Value) -> bool:
    """``Where(Expand(condition), 0, low)``: adding broadcasts anyway, so the condition stays small."""
    where = maker(mask, "Where")
    expand = None if where is None else maker(where.inputs[0], "Expand")
    if where is None or expand is None or len(mask.uses()) != len({u.node for u in mask.uses()}):
        return False
    condition = expand.inputs[0]
    if condition is None or condition.shape is None or mask.shape is None:
        return False
    readers = [use.node for use in mask.uses()]
    # Every reader must get its full size from its other operand.
    if not all(
        r.op_type == "Add" and any(same(dims(v), dims(r.outputs[0])) for v in r.inputs if v is not mask)
        for r in readers
    ):
        return False
    if any(v is None or v is mask or dims(v) not in ((), (1,)) for v in where.inputs[1:]):
        return False
    where.replace_input_with(0, condition)
    mask.shape = condition.shape
    remove(expand)
    return True


def _is_finite(mask: ir.Value) -> bool:
    """Whether the mask surely holds no infinity and no NaN."""
    array = constant(mask)
    if array is not None:
        return bool(np.isfinite(array).all())
    node = mask.producer()
    if node is None:
        return False
    if node.op_type == "Where":
        return all(v is not None and _is_finite(v) for v in node.inputs[1:])
    if node.op_type == "Cast":
        source = node.inputs[0]
        return source is not None and source.dtype is not None and not source.dtype.is_floating_point()
    if node.op_type == "Concat":
        return all(v is not None and _is_finite(v) for v in node.inputs)
    return node.op_type in _MOVES and node.inputs[0] is not None and _is_finite(node.inputs[0])


def _is_zero(mask: ir.Value) -> bool:
    """Whether the mask surely is zero everywhere."""
    array = constant(mask)
    if array is not None:
        return bool((array == 0).all())
    node = mask.producer()
    if node is None:
        return False
    if node.op_type == "Where":
        chosen = [node.inputs[1 + side] for side in (0, 1) if not _is_all(node.inputs[0], bool(side))]
        return all(v is not None and _is_zero(v) for v in chosen)
    if node.op_type == "Concat":
        return all(v is not None and _is_zero(v) for v in node.inputs)
    return node.op_type in _MOVES and node.inputs[0] is not None and _is_zero(node.inputs[0])


def _is_all(condition: ir.Value | None, wanted: bool) -> bool:
    array = constant(condition)
    if array is not None:
        return bool((array == wanted).all())
    node = None if condition is None else condition.producer()
    return node is not None and node.op_type in _MOVES - {"Concat"} and _is_all(node.inputs[0], wanted)


def _drop_guard(softmax: ir.Node) -> bool:
    """``Where(IsNaN(p), 0, p)`` is p: with finite masks a row of scores is never all minus infinity."""
    result = softmax.outputs[0]
    for use in list(result.uses()):
        test = use.node
        if test.op_type != "IsNaN":
            continue
        for inner in list(test.outputs[0].uses()):
            where = inner.node
            if where.op_type != "Where" or inner.idx != 0 or where.inputs[2] is not result:
                continue
            instead = constant(where.inputs[1])
            if instead is not None and not instead.any() and same(dims(result), dims(where.outputs[0])):
                alias(where, [result])
                return True
    return False
