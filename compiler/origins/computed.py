"""Weights that are computed of stored ones: the operators, in order, and how they are run for one weight at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from targets.graph.weights import Origin, Stored

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


@dataclass(frozen=True)
class Constant:
    """A small tensor that a library made itself (a mask, an identity): its bytes, C order."""

    data: bytes
    dtype: ir.DataType
    shape: tuple[int, ...]
    key: str = "constant"

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Constant:
        """The tensor's values as they are now."""
        array = as_array(tensor)
        return cls(array.tobytes(), OF_TORCH[tensor.dtype], tuple(array.shape))

    def read(self) -> np.ndarray:
        """The values."""
        return np.frombuffer(self.data, self.dtype.numpy()).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Computed:
    """The result of one operator on other origins.

    Attributes:
        function: an operator of PyTorch, or any function of tensors.
        arguments, keywords: its arguments, origins in the places of tensors; nested lists are tuples.
        output: which of several results it is; None where there is one.
        key: the weight's name; equal origins may have different ones.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    output: int | None
    dtype: ir.DataType
    shape: tuple[int, ...]
    key: str = ""

    @cached_property
    def _identity(self) -> tuple[Any, ...]:
        # By name: overloads of operators are equal by object, which differs between processes.
        return (str(self.function), self.arguments, self.keywords, self.output, self.shape, self.dtype)

    @cached_property
    def _hash(self) -> int:
        return hash(self._identity)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Computed):
            return NotImplemented
        return self._hash == other._hash and self._identity == other._identity

    def named(self, key: str) -> Computed:
        """The same weight under another name."""
        return replace(self, key=key)

    def read(self) -> np.ndarray:
        """Runs the operators. Holds what they still need of each other's results, and nothing afterwards."""
        return as_array(evaluated(self))

    def bound(self) -> float | None:
        """What no element is larger than in size, where sums and products of small matrices tell; else None."""
        from compiler.origins.bounds import bound

        return bound(self)


def inputs(origin: Origin) -> tuple[Origin, ...]:
    """The origins that an origin is computed from, each as often as it is used; none for what is stored."""
    if not isinstance(origin, Computed):
        return ()
    return tuple(leaf for leaf in _leaves((origin.arguments, origin.keywords)) if _is_origin(leaf))


def stored(origin: Origin) -> Iterator[Stored]:
    """The stored tensors that an origin is made of."""
    seen: set[int] = set()
    waiting = [origin]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Stored):
            yield node
        waiting.extend(inputs(node))


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
        if not _is_origin(value):
            return value
        uses[id(value)] -= 1
        return results[id(value)] if uses[id(value)] else results.pop(id(value))

    with torch.no_grad():
        for node in order:
            if not isinstance(node, Computed):
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
    if not isinstance(origin, Computed):
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
    if not isinstance(origin, Computed):
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
    return isinstance(value, Computed) and value.function is operator


def _leaves(value: Any) -> Iterator[Any]:
    """What frozen arguments hold."""
    if isinstance(value, tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Frozen arguments with `function` of each leaf."""
    if isinstance(value, tuple):
        return tuple(_mapped(function, item) for item in value)
    return function(value)


_KINDS: dict[type, bool] = {}


def _is_origin(value: Any) -> bool:
    kind = type(value)
    # A protocol looks for every attribute by its name; a class either has them all, or none of its instances has.
    if kind not in _KINDS:
        _KINDS[kind] = isinstance(value, Origin)
    return _KINDS[kind]
