"""Dimensions of values: an int, the name of a symbolic dimension, or None for unknown. Equal names are equal sizes."""

from __future__ import annotations

from typing import Union

import onnx_ir as ir

Dim = Union[int, str, None]
Dims = tuple[Dim, ...]


def dims(value: ir.Value | None) -> Dims | None:
    """The dimensions of `value`, or None when not even its rank is known."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def static(value: ir.Value | None) -> tuple[int, ...] | None:
    """The dimensions of `value` when all are fixed, otherwise None."""
    shape = dims(value)
    return shape if shape is not None and all(isinstance(d, int) for d in shape) else None  # type: ignore[return-value]


def same(a: Dims | None, b: Dims | None) -> bool:
    """Whether both are surely the same shape."""
    return a is not None and b is not None and a == b and None not in a
