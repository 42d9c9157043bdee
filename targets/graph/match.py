"""Who makes a value, and who reads it: the steps by which passes find what they rewrite."""

from __future__ import annotations

import onnx_ir as ir


def maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes `value`, where it is of this standard operator."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain == "" else None


def sole_maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """`maker`, where one node alone reads `value`."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return maker(value, op_type)


def sole_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """The one node that reads `value`, where it is of this standard operator."""
    uses = value.uses()
    node = next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None
    return node if node is not None and node.op_type == op_type and node.domain == "" else None
