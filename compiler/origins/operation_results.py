"""Weights that are computed of stored ones: their operators are run in order, for one weight at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from compiler.origins.operation import Operation, inputs, is_origin
from targets.graph.weights import Origin

DTYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
}
"""Element types as PyTorch has them."""
OF_TORCH = {dtype: of_ir for of_ir, dtype in DTYPES.items()}


def as_tensor(array: np.ndarray, dtype: ir.DataType) -> torch.Tensor:
    """A tensor of the array's memory, in any element type that PyTorch has.

    Args:
        dtype: the array's element type; NumPy's own does not name bfloat16 and the 8-bit floats.
    """
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if not data.size:
        return torch.empty(array.shape, dtype=DTYPES[dtype])
    return torch.from_numpy(data).view(DTYPES[dtype]).reshape(array.shape)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """An array of the tensor's memory, in `onnx_ir`'s NumPy type for its elements."""
    tensor = tensor.detach().contiguous()
    data: np.ndarray = tensor.reshape(-1).view(torch.uint8).numpy()
    return data.view(OF_TORCH[tensor.dtype].numpy()).reshape(tuple(tensor.shape))


def evaluated(origin: Origin) -> torch.Tensor:
    """The tensor, its operators run in order; a result is dropped when nobody needs it any more."""
    order: list[Origin] = []
    uses: dict[int, int] = {}
    origin = _with_products_added(origin)
    waiting: list[tuple[Origin, bool]] = [(origin, False)]
    seen: set[int] = set()
    while waiting:
        node, ready = waiting.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            waiting.append((node, True))
            for child in inputs(node):
                uses[id(child)] = uses.get(id(child), 0) + 1
                waiting.append((child, False))
    results: dict[int, torch.Tensor] = {}

    def taken(value: Any) -> Any:
        if not is_origin(value):
            return value
        uses[id(value)] -= 1
        return results[id(value)] if uses[id(value)] else results.pop(id(value))

    with torch.no_grad():
        for node in order:
            if not isinstance(node, Operation):
                own = getattr(node, "tensor", None)  # Of an origin that makes memory of its own.
                results[id(node)] = as_tensor(node.read(), node.dtype) if own is None else own()
                continue
            arguments = _mapped(taken, node.arguments)
            keywords = {name: _mapped(taken, value) for name, value in node.keywords}
            result = node.function(*arguments, **keywords)
            del arguments, keywords
            results[id(node)] = result if node.output is None else result[node.output]
    return results[id(origin)]


def _with_products_added(origin: Origin) -> Origin:
    """The origin with `weight + (left @ right) * factor`, what a LoRA is, as one operator.

    A large weight is then written once instead of three times.
    """
    if not isinstance(origin, Operation):
        return origin
    if origin.function in (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default):
        inner, *rest = origin.arguments
        return replace(origin, arguments=(_with_products_added(inner), *rest))
    if origin.function is not torch.ops.aten.add.Tensor or origin.keywords or len(origin.arguments) != 2:
        return origin
    weight, scaled = origin.arguments
    if not _is_of(scaled, torch.ops.aten.mul.Tensor) or not _is_of(
        scaled.arguments[0], torch.ops.aten.mm.default
    ):
        return origin
    product, factor = scaled.arguments
    parts = (weight, *product.arguments)
    if not isinstance(factor, float) or any(part.dtype is not origin.dtype for part in parts):
        return origin
    if weight.shape != origin.shape:
        return origin
    # Another LoRA may have been added to the weight before.
    parts = (_with_products_added(weight), *product.arguments)
    # What is computed for this sum alone is written over: the nodes on the way to it are copies that only it reads.
    own = _is_of_its_own(parts[0]) and not any(_reaches(factor, parts[0]) for factor in parts[1:])
    into = torch.Tensor.addmm_ if own else torch.addmm
    return replace(origin, function=into, arguments=parts, keywords=(("alpha", factor),))


def _is_of_its_own(origin: Origin) -> bool:
    """Whether evaluating the origin makes a tensor that shares no memory with another."""
    if not isinstance(origin, Operation):
        return hasattr(origin, "tensor")
    if origin.function in (torch.addmm, torch.Tensor.addmm_):
        return True
    casts = (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default)
    return origin.function in casts and origin.arguments[0].dtype is not origin.dtype


def _reaches(origin: Origin, other: Origin) -> bool:
    """Whether `other` is among what an origin is computed of."""
    waiting = [origin]
    while waiting:
        node = waiting.pop()
        if node is other:
            return True
        waiting.extend(inputs(node))
    return False


def _is_of(value: Any, operator: Any) -> bool:
    return isinstance(value, Operation) and value.function is operator


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Frozen arguments with `function` of each leaf."""
    if isinstance(value, tuple):
        return tuple(_mapped(function, item) for item in value)
    return function(value)
