"""How large the elements of a computed weight are at most, told from what it is made of."""

from __future__ import annotations

import math
from typing import Any

import torch

from compiler.origins.operation import Operation
from compiler.origins.operation_results import as_tensor, evaluated
from targets.graph.weights import Origin

_ROUNDING = 1 + 2**-10
"""More than sums and products in float32 can add to what they are of exact numbers."""

_MOVING = frozenset(
    {
        torch.ops.aten.view.default,
        torch.ops.aten.reshape.default,
        torch.ops.aten.t.default,
        torch.ops.aten.transpose.int,
        torch.ops.aten.permute.default,
        torch.ops.aten.squeeze.default,
        torch.ops.aten.squeeze.dim,
        torch.ops.aten.unsqueeze.default,
        torch.ops.aten.clone.default,
        torch.ops.aten.to.dtype,
        torch.ops.aten._to_copy.default,
    }
)
"""Operators whose result has no element that their first argument does not have, but for rounding."""


def bound(origin: Origin) -> float | None:
    """What no element is larger than in size; None where it takes the tensor itself to tell.

    A LoRA's sum is bounded by the weight and the lengths of its factors' rows and columns: the product, which is as
    large as the weight, is not computed.

    Raises:
        OSError, LatentcError: what it is made of cannot be read.
    """
    if not isinstance(origin, Operation):
        return _largest(as_tensor(origin.read(), origin.dtype))
    if origin.output is not None:
        return None
    first, *rest = origin.arguments or (None,)
    if origin.function in _MOVING:
        inner = bound(first)
        return None if inner is None else inner * _ROUNDING
    if origin.function is torch.ops.aten.mm.default:
        return _of_product(first, rest[0])
    if origin.keywords or len(rest) != 1 or not isinstance(first, Origin):
        return None
    if origin.function is torch.ops.aten.mul.Tensor and isinstance(rest[0], (int, float)):
        inner = bound(first)
        return None if inner is None else inner * abs(rest[0]) * _ROUNDING
    if origin.function is torch.ops.aten.add.Tensor and isinstance(rest[0], Origin):
        bounds = bound(first), bound(rest[0])
        return None if bounds[0] is None or bounds[1] is None else (bounds[0] + bounds[1]) * _ROUNDING
    return None


def _of_product(left: Any, right: Any) -> float | None:
    """Of `left @ right`, where its factors are smaller than it: the longest row times the longest column."""
    if math.prod(left.shape) + math.prod(right.shape) >= left.shape[0] * right.shape[1]:
        return None
    rows = evaluated(left).double().norm(dim=1)
    columns = evaluated(right).double().norm(dim=0)
    return float(rows.max() * columns.max()) * _ROUNDING


def _largest(tensor: torch.Tensor) -> float:
    if not tensor.numel():
        return 0.0
    low, high = (float(extreme) for extreme in tensor.aminmax())
    return max(abs(low), abs(high))
