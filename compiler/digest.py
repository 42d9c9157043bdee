"""A fingerprint of a graph's structure: equal for equal graphs, whatever their values are called."""

from __future__ import annotations

import hashlib

import onnx_ir as ir


def graph_digest(model: ir.Model) -> str:
    """SHA-256 of operators, attributes, wiring, and of names, dtypes and shapes of inputs, outputs and weights.

    Data of weights is not read; node and value names do not matter, the order of nodes does.
    """
    state = hashlib.sha256()
    for domain, version in sorted(model.opset_imports.items()):
        _add(state, "opset", domain, version)
    _graph(state, model.graph, {})
    return state.hexdigest()


def _graph(state: hashlib._Hash, graph: ir.Graph, numbers: dict[ir.Value, int]) -> None:
    """`numbers` of the values seen so far; a subgraph uses those of the graphs around it."""

    def number(value: ir.Value | None) -> int:
        return -1 if value is None else numbers.setdefault(value, len(numbers))

    for value in graph.inputs:
        _add(state, "input", number(value), value.name, value.dtype, value.shape)
    for value in graph.initializers.values():
        tensor = value.const_value
        _add(state, "weight", number(value), None if tensor is None else (tensor.dtype, tensor.shape))
    for node in graph:
        _add(state, node.domain, node.op_type, *(number(value) for value in node.inputs))
        _add(state, "->", *(number(value) for value in node.outputs))
        for name in sorted(node.attributes):
            attribute = node.attributes[name]
            if attribute.type is ir.AttributeType.GRAPH:
                _graph(state, attribute.as_graph(), numbers)
            elif attribute.type is ir.AttributeType.TENSOR:
                _add(state, name, attribute.as_tensor().tobytes())
            else:
                _add(state, name, attribute.value)
    for value in graph.outputs:
        _add(state, "output", number(value), value.name, value.dtype)


def _add(state: hashlib._Hash, *parts: object) -> None:
    state.update(repr(parts).encode())
