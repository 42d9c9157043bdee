"""Copies of models that share weights, and nothing that a pass changes."""

from __future__ import annotations

import copy

import onnx_ir as ir


def copy_of(model: ir.Model) -> ir.Model:
    """A copy of a model, whose weights are the same objects.

    `onnx_ir` lets values of a clone share their types with the original, so that a pass which sets `value.dtype` in
    one would change the other.
    """
    copied = model.clone()
    values = [*copied.graph.inputs, *copied.graph.initializers.values()]
    for node in copied.graph.all_nodes():
        values += [value for value in (*node.inputs, *node.outputs) if value is not None]
    for value in {id(value): value for value in values}.values():
        value.type = (
            copy.copy(value.type) if isinstance(value.type, ir.TensorType) else copy.deepcopy(value.type)
        )
    return copied
