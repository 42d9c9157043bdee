"""Small edits that several passes make: a value stands in for another, a constant or a node is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


def alias(node: ir.Node, values: Sequence[ir.Value]) -> None:
    """Removes `node`; `values` stand in for its outputs. Producers that nothing needs any more go with it.

    A graph output keeps its name: the value that takes its place is renamed, or, where that is itself an
    input, a constant or another output, stands behind an Identity.
    """
    graph = node.graph
    assert graph is not None
    for old, new in zip(list(node.outputs), values, strict=False):
        if old is new:
            continue
        if old.is_graph_output():
            name = old.name
            if new.is_graph_input() or new.is_initializer() or new.is_graph_output():
                keep = ir.node("Identity", [new])
                keep.outputs[0].type, keep.outputs[0].shape = old.type, old.shape
                graph.insert_after(node, keep)
                new = keep.outputs[0]
            old.name = f"{name}_replaced"
            new.name = name
        if new.type is None:
            new.type = old.type
        if old.shape is not None and (new.shape is None or _unknown(new.shape) > _unknown(old.shape)):
            new.shape = old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    remove(node)


def remove(node: ir.Node) -> None:
    """Removes a node that nobody uses, and then its producers and initializers that nobody uses."""
    pending = [node]
    while pending:
        dead = pending.pop()
        graph = dead.graph
        if graph is None or any(v.uses() or v.is_graph_output() for v in dead.outputs):
            continue
        inputs = [v for v in dead.inputs if v is not None]
        graph.remove(dead, safe=True)
        for value in inputs:
            producer = value.producer()
            if producer is not None:
                pending.append(producer)
            elif _is_unused_initializer(value):
                assert value.graph is not None and value.name is not None
                value.graph.initializers.pop(value.name)


def _is_unused_initializer(value: ir.Value) -> bool:
    used = value.uses() or value.is_graph_output() or value.is_graph_input()
    return value.is_initializer() and not used


def insert(
    after: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, Any] | None = None,
    *,
    dtype: ir.DataType | None = None,
    shape: ir.Shape | Sequence[Any] | None = None,
    outputs: int = 1,
    before: bool = False,
    domain: str = "",
) -> ir.Node:
    """A new node right after (or before) another one. `dtype` and `shape` are those of its first output.

    It belongs to the same module of the model as the other one (`compiler.export.scopes`).
    """
    node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs)
    node.metadata_props.update(after.metadata_props)
    if dtype is not None:
        node.outputs[0].dtype = dtype
    if shape is not None:
        node.outputs[0].shape = shape if isinstance(shape, ir.Shape) else ir.Shape(shape)
    assert after.graph is not None
    (after.graph.insert_before if before else after.graph.insert_after)(after, node)
    return node


def add_initializer(graph: ir.Graph, tensor: ir.TensorProtocol, name: str) -> ir.Value:
    """A new initializer; the name gets a number when it is taken."""
    unique, i = name, 1
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    while unique in graph.initializers or unique in taken:
        unique, i = f"{name}_{i}", i + 1
    value = ir.Value(name=unique, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)  # type: ignore[arg-type]
    graph.register_initializer(value)
    return value


def add_constant(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    """A new small constant."""
    return add_initializer(graph, ir.Tensor(array), name)


def _unknown(shape: ir.Shape) -> int:
    return sum(not isinstance(d, int) and d.value is None for d in shape)
