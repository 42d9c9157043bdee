"""Common subexpressions: nodes that compute the same from the same, and initializers that hold the same."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from targets.graph.constants import is_small
from targets.graph.edit import alias
from targets.graph.weights import WeightRef

# Ops that give another result each time they run.
RANDOM_OPS = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli".split()
)

# Constants up to this many bytes are compared by content. Larger ones that are in memory are rare.
_COMPARED_BYTES = 1 << 20


def tensor_key(tensor: ir.TensorProtocol | None) -> Hashable:
    """What two equal constants have in common, or None when this one is not compared. Reads no weight."""
    if isinstance(tensor, WeightRef):
        return tensor.identity
    if tensor is None or not is_small(tensor) or tensor.nbytes > _COMPARED_BYTES:
        return None
    if tensor.dtype == ir.DataType.STRING:
        return None
    return (tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes())


_SCALARS = frozenset({ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING})
_LISTS = frozenset({ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS})


def attributes_key(node: ir.Node) -> Hashable:
    """The node's attributes as something hashable, or None when they hold a graph or a large tensor."""
    if not node.attributes:
        return ()
    items: list[tuple[str, Hashable]] = []
    for name in sorted(node.attributes):
        attribute = node.attributes[name]
        if attribute.is_ref():
            return None
        if attribute.type in _SCALARS:
            items.append((name, attribute.value))
        elif attribute.type in _LISTS:
            items.append((name, tuple(attribute.value)))
        elif attribute.type == ir.AttributeType.TENSOR:
            key = tensor_key(attribute.as_tensor())
            if key is None:
                return None
            items.append((name, key))
        else:
            return None
    return tuple(items)


class CsePass(ir.passes.InPlacePass):
    """One forward walk: inputs are replaced as their producers merge, so whole equal chains fall together.

    Initializers merge by content, weights by `WeightRef.identity`: tied weights are written once.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        constants: dict[Hashable, ir.Value] = {}
        for value in list(graph.initializers.values()):
            key = None if value.is_graph_input() or value.is_graph_output() else tensor_key(value.const_value)
            if key is None:
                continue
            first = constants.setdefault(key, value)
            if first is not value:
                ir.convenience.replace_all_uses_with(value, first)
                assert value.name is not None
                del graph.initializers[value.name]
                modified = True
        seen: dict[Hashable, ir.Node] = {}
        for node in graph:
            if node.op_type in RANDOM_OPS:
                continue
            attributes = attributes_key(node)
            if attributes is None:
                continue
            key = (node.op_identifier(), tuple(node.inputs), len(node.outputs), attributes)
            first_node = seen.setdefault(key, node)
            if first_node is not node:
                alias(node, first_node.outputs)
                modified = True
        return ir.passes.PassResult(model, modified)
