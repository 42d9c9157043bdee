"""Nodes that do nothing, or that a simpler node does as well. All exact; none looks at a weight's data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from targets.graph.constants import constant, int_attribute, ints_attribute
from targets.graph.dims import Dims, dims, same, static
from targets.graph.edit import add_constant, insert
from targets.graph.integer_contents import is_whole, slice_bounds
from targets.graph.shapes import Shapes

_Rule = Callable[[ir.Node, ir.Graph, Shapes], "Sequence[ir.Value] | None"]

# These only give the elements, in the same order, another shape.
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


def simplify(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    """Values that stand in for the node's outputs, or None; nodes may have been added after it."""
    rule = _RULES.get(node.op_type)
    return None if rule is None or not node.inputs or node.inputs[0] is None else rule(node, graph, shapes)


def _first(node: ir.Node) -> Sequence[ir.Value]:
    value = node.inputs[0]
    assert value is not None
    return [value]


def _identity(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    return _first(node)


def _cast(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    value, dtype = node.inputs[0], node.outputs[0].dtype
    assert value is not None
    if dtype is None:
        return None
    if value.dtype == dtype:
        return [value]
    if node.op_type == "CastLike":
        new = insert(node, "Cast", [value], {"to": int(dtype)}, dtype=dtype, shape=node.outputs[0].shape)
        return new.outputs
    return None


def _transpose(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    value = node.inputs[0]
    assert value is not None
    perm = ints_attribute(node, "perm")
    if perm is None:
        return None
    if perm == tuple(range(len(perm))):
        return [value]
    inner = value.producer()
    if inner is not None and inner.op_type == "Transpose" and inner.domain == "":
        first = ints_attribute(inner, "perm")
        if first is not None and inner.inputs[0] is not None:
            both = tuple(first[i] for i in perm)
            out = node.outputs[0]
            return insert(
                node, "Transpose", [inner.inputs[0]], {"perm": both}, dtype=out.dtype, shape=out.shape
            ).outputs
    return None


def _view(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    """A chain of reshapes that ends where it began goes; one that does not starts at its root."""
    out = dims(node.outputs[0])
    root = node.inputs[0]
    assert root is not None
    if same(dims(root), out):
        return [root]
    value = root
    while (inner := value.producer()) is not None and inner.op_type in _VIEWS and inner.inputs[0] is not None:
        value = inner.inputs[0]
        if same(dims(value), out):
            return [value]
    if node.op_type != "Reshape":
        return None
    return _reshape(node, graph, shapes, value)


def _reshape(node: ir.Node, graph: ir.Graph, shapes: Shapes, root: ir.Value) -> Sequence[ir.Value] | None:
    """The target shape becomes a constant wherever one symbolic dimension at most is not the input's own."""
    out = node.outputs[0]
    wanted = dims(out)
    written = shapes.contents(node.inputs[1])
    if wanted is None:
        return None
    if written is not None and len(written) == len(wanted):
        wanted = tuple(w if w is not None else d for w, d in zip(wanted, _literal(written), strict=False))
    for start in (root, node.inputs[0]):
        target = _target(dims(start), wanted)
        if target is None:
            continue
        current = None if int_attribute(node, "allowzero", 0) else constant(node.inputs[1])
        if start is node.inputs[0] and current is not None and current.tolist() == target:
            return None
        shape = add_constant(graph, np.array(target, np.int64), f"{out.name}.shape")
        return insert(node, "Reshape", [start, shape], dtype=out.dtype, shape=out.shape).outputs
    return None


def _literal(written: Dims) -> Dims:
    return tuple(None if isinstance(d, int) and d <= 0 else d for d in written)


def _target(shape: Dims | None, wanted: Dims) -> list[int] | None:
    """`wanted` as a constant: 0 for "as the input's", -1 for the one that is left over, or None."""
    if 0 in wanted:
        return None  # an empty tensor: 0 would mean something else
    target: list[int] = []
    for i, d in enumerate(wanted):
        if isinstance(d, int):
            target.append(d)
        elif d is not None and shape is not None and i < len(shape) and shape[i] == d:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def _unsqueeze(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    viewed = _view(node, graph, shapes)
    if viewed is not None:
        return viewed
    value, axes = node.inputs[0], shapes.fixed(node.inputs[1])
    assert value is not None
    inner, rank = value.producer(), len(dims(node.outputs[0]) or ())
    if inner is None or inner.op_type != "Unsqueeze" or axes is None or not rank:
        return None
    first = shapes.fixed(inner.inputs[1])
    if first is None:
        return None
    outer = [a % rank for a in axes]
    inner_axes = [i for i in range(rank) if i not in outer]
    both = sorted(outer + [inner_axes[a % (rank - len(outer))] for a in first])
    out = node.outputs[0]
    new = add_constant(graph, np.array(both, np.int64), f"{out.name}.axes")
    return insert(node, "Unsqueeze", [inner.inputs[0], new], dtype=out.dtype, shape=out.shape).outputs


def _expand(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    return _first(node) if same(dims(node.inputs[0]), dims(node.outputs[0])) else None


def _slice(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    bounds, shape = slice_bounds(shapes, node), dims(node.inputs[0])
    if bounds is None or shape is None:
        return None
    return _first(node) if all(is_whole(b, shape[b[0]]) for b in bounds) else None


def _concat(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    return _first(node) if len(node.inputs) == 1 else None


def _neutral(element: int, sides: tuple[int, ...]) -> _Rule:
    def rule(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
        for side in sides:
            array = constant(node.inputs[side])
            other = node.inputs[1 - side]
            if array is None or other is None or not array.size or not (array == element).all():
                continue
            if same(dims(other), dims(node.outputs[0])):
                return [other]
        return None

    return rule


def _where(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    condition = constant(node.inputs[0])
    if condition is None or not condition.size or (condition != condition.flat[0]).any():
        return _where_of_booleans(node)
    chosen = node.inputs[1] if condition.flat[0] else node.inputs[2]
    return [chosen] if chosen is not None and same(dims(chosen), dims(node.outputs[0])) else None


def _where_of_booleans(node: ir.Node) -> Sequence[ir.Value] | None:
    """Logic, which every runtime has; ONNX Runtime has no kernel that selects booleans."""
    condition, a, b = node.inputs
    if node.outputs[0].dtype != ir.DataType.BOOL or condition is None:
        return None

    def logic(operator: str, *operands: ir.Value | None, shape: ir.Shape | None = None) -> ir.Value:
        return insert(node, operator, operands, dtype=ir.DataType.BOOL, shape=shape, before=True).outputs[0]

    unless = logic("Not", condition, shape=condition.shape)
    return [logic("Or", logic("And", condition, a), logic("And", unless, b), shape=node.outputs[0].shape)]


def _dropout(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    training = constant(node.inputs[2]) if len(node.inputs) > 2 else np.array(False)
    return _first(node) if training is not None and not training.any() and len(node.outputs) == 1 else None


def _sequence_at(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    """Items of a sequence of known length are plain values: no target runs sequences well."""
    sequence, position = node.inputs[0], shapes.fixed(node.inputs[1])
    maker = None if sequence is None else sequence.producer()
    if maker is None or position is None:
        return None
    if maker.op_type == "SequenceConstruct":
        item = maker.inputs[position[0]]
        return None if item is None else [item]
    if maker.op_type != "SplitToSequence":
        return None
    split = _split_of(maker, graph, shapes)
    return None if split is None else [split.outputs[position[0]]]


def _split_of(maker: ir.Node, graph: ir.Graph, shapes: Shapes) -> ir.Node | None:
    data = maker.inputs[0]
    shape = dims(data)
    if data is None or shape is None or not int_attribute(maker, "keepdims", 1):
        return None
    axis = int_attribute(maker, "axis", 0) % len(shape)
    sizes = maker.inputs[1] if len(maker.inputs) > 1 else None
    length, pieces, fixed = shape[axis], static(sizes), shapes.fixed(sizes)
    if sizes is None or pieces is None:
        return None
    lengths: Dims
    if pieces == ():  # one number: pieces of that length, the last may be shorter
        if fixed is None or not isinstance(length, int):
            return None
        lengths = tuple(min(fixed[0], length - start) for start in range(0, length, fixed[0]))
    else:
        lengths = shapes.contents(sizes) or (None,) * pieces[0]
    for use in data.uses():  # made for an earlier item of the same sequence
        if use.node.op_type == "Split" and use.node.metadata_props.get("split_of") == maker.outputs[0].name:
            return use.node
    if pieces == ():
        sizes = add_constant(graph, np.array(lengths, np.int64), f"{maker.outputs[0].name}.lengths")
    split = insert(maker, "Split", [data, sizes], {"axis": axis}, outputs=len(lengths))
    split.metadata_props["split_of"] = maker.outputs[0].name or ""
    for out, n in zip(split.outputs, lengths, strict=False):
        out.type = data.type
        out.shape = ir.Shape((*shape[:axis], n, *shape[axis + 1 :]))
    return split


_RULES: dict[str, _Rule] = {
    "Add": _neutral(0, (0, 1)),
    "Cast": _cast,
    "CastLike": _cast,
    "Concat": _concat,
    "Div": _neutral(1, (1,)),
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _view,
    "Identity": _identity,
    "Mul": _neutral(1, (0, 1)),
    "Pow": _neutral(1, (1,)),
    "Reshape": _view,
    "SequenceAt": _sequence_at,
    "Slice": _slice,
    "Squeeze": _view,
    "Sub": _neutral(0, (1,)),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
