"""Layout changes of weights become steps of their transform chains: data moves once, as it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from compiler.passes.cse import attributes_key
from targets.graph.constants import int_attribute, ints_attribute
from targets.graph.dims import static
from targets.graph.edit import add_initializer
from targets.graph.integer_contents import slice_bounds
from targets.graph.shapes import Shapes
from targets.graph.weights import Cast, Joined, Reshape, Slice, Transform, Transpose, WeightRef

# A weight with other uses is stored once more for each way it is transformed: only when it is small.
_COPIED_BYTES = 1 << 16

_Step = Callable[[WeightRef, ir.Node, Shapes], "list[tuple[Transform, ...]] | None"]


def fold(node: ir.Node, graph: ir.Graph, shapes: Shapes) -> Sequence[ir.Value] | None:
    """Initializers that stand in for the node's outputs; None when it is no layout change of a weight."""
    if not node.inputs or node.inputs[0] is None or node.inputs[0].is_graph_input():
        return None
    if node.op_type == "Concat":
        return _join(node, graph)
    value = node.inputs[0]
    weight = value.const_value
    rule = _STEPS.get(node.op_type)
    if rule is None or not isinstance(weight, WeightRef):
        return None
    steps = rule(weight, node, shapes)
    if steps is None or len(steps) != len(node.outputs):
        return None
    parts = node.op_type in ("Split", "Slice")
    if not parts and weight.nbytes > _COPIED_BYTES and not _all_alike(value, node):
        return None
    return [_bind(weight, step, value, out, graph) for step, out in zip(steps, node.outputs, strict=False)]


def _all_alike(value: ir.Value, node: ir.Node) -> bool:
    mine = (node.op_type, attributes_key(node), tuple(node.inputs))
    return not value.is_graph_output() and all(
        use.node is node or (use.node.op_type, attributes_key(use.node), tuple(use.node.inputs)) == mine
        for use in value.uses()
    )


def _bind(
    weight: WeightRef, steps: tuple[Transform, ...], value: ir.Value, out: ir.Value, graph: ir.Graph
) -> ir.Value:
    moved = weight.then(*steps)
    name = out.name or "weight"
    # The only reader keeps the weight's own name, which people and quantization recipes know.
    if len(value.uses()) == 1 and not value.is_graph_output() and len(steps) == 1 and value.name is not None:
        name = value.name
        del graph.initializers[name]
        value.name = f"{name}.stored"
    moved.name = name
    return add_initializer(graph, moved, name)


def _join(node: ir.Node, graph: ir.Graph) -> Sequence[ir.Value] | None:
    parts: list[WeightRef] = []
    for value in node.inputs:
        if value is None or not isinstance(value.const_value, WeightRef) or len(value.uses()) != 1:
            return None
        parts.append(value.const_value)
    if len(parts) < 2 or len({p.dtype for p in parts}) != 1:
        return None
    axis = int_attribute(node, "axis", 0) % len(parts[0].shape)
    name = node.outputs[0].name or "weight"
    return [add_initializer(graph, WeightRef(Joined(tuple(parts), axis), (), name), name)]


def _transpose(weight: WeightRef, node: ir.Node, shapes: Shapes) -> list[tuple[Transform, ...]] | None:
    perm = ints_attribute(node, "perm") or tuple(reversed(range(len(weight.shape))))
    return [(Transpose(perm),)]


def _to_shape(weight: WeightRef, node: ir.Node, shapes: Shapes) -> list[tuple[Transform, ...]] | None:
    target = static(node.outputs[0])
    return None if target is None else [(Reshape(target),)]


def _cast(weight: WeightRef, node: ir.Node, shapes: Shapes) -> list[tuple[Transform, ...]] | None:
    dtype = node.outputs[0].dtype
    return None if dtype is None or dtype.bitwidth < 8 else [(Cast(dtype),)]


def _identity(weight: WeightRef, node: ir.Node, shapes: Shapes) -> list[tuple[Transform, ...]] | None:
    return [()]


def _slice(weight: WeightRef, node: ir.Node, shapes: Shapes) -> list[tuple[Transform, ...]] | None:
    bounds = slice_bounds(shapes, node)
    if bounds is None or any(step != 1 for *_, step in bounds):
        return None
    size = tuple(weight.shape.numpy())
    steps = []
    for axis, start, end, _ in bounds:
        taken = range(size[axis])[start:end]
        if not taken:
            return None
        steps.append(Slice(axis, taken[0], taken[-1] + 1))
    return [tuple(steps)]


def _split(weight: WeightRef, node: ir.Node, shapes: Shapes) -> list[tuple[Transform, ...]] | None:
    size = tuple(weight.shape.numpy())
    axis = int_attribute(node, "axis", 0) % len(size)
    lengths: Sequence[int] | None
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        lengths = shapes.fixed(node.inputs[1])
    else:
        chunk = -(-size[axis] // len(node.outputs))
        lengths = [min(chunk, size[axis] - i * chunk) for i in range(len(node.outputs))]
    if lengths is None or sum(lengths) != size[axis]:
        return None
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [(Slice(axis, start, start + length),) for start, length in zip(starts, lengths, strict=False)]


_STEPS: dict[str, _Step] = {
    "Cast": _cast,
    "CastLike": _cast,
    "Identity": _identity,
    "Reshape": _to_shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _to_shape,
    "Transpose": _transpose,
    "Unsqueeze": _to_shape,
}
