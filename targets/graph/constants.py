"""Constants that are in memory, and attributes of nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def is_small(tensor: ir.TensorProtocol | None) -> bool:
    """Whether a tensor's data is in memory: weights (lazy) and external data are never looked at."""
    return tensor is not None and not isinstance(tensor, (ir.LazyTensor, ir.ExternalTensor))


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The data of a constant that is in memory and cannot be overridden by a caller, otherwise None."""
    if value is None or value.is_graph_input() or not is_small(value.const_value):
        return None
    assert value.const_value is not None
    return value.const_value.numpy()


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list attribute, or None when it is absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())
