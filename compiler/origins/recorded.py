"""Tensors that record what is done to them, so that a library's own code says how weights are made of stored ones.

A `Recorded` tensor has a shape and no data. Code that renames, cuts, joins, transposes or adds such tensors leaves
behind, in each result's `origin`, the operators and the stored tensors that it is made of. `Computed.read` runs those
operators on the stored bytes, for one weight at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.utils import _pytree as pytree

from targets.graph.weights import Origin, Stored

_DTYPES: dict[ir.DataType, torch.dtype] = {
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
_OF_TORCH = {dtype: of_ir for of_ir, dtype in _DTYPES.items()}

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_tensor(array: np.ndarray, dtype: ir.DataType) -> torch.Tensor:
    """A tensor of the array's memory, in any element type that PyTorch has.

    Args:
        dtype: the array's element type; NumPy's own does not name bfloat16 and the 8-bit floats.
    """
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if not data.size:
        return torch.empty(array.shape, dtype=_DTYPES[dtype])
    return torch.from_numpy(data).view(_DTYPES[dtype]).reshape(array.shape)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """An array of the tensor's memory, in `onnx_ir`'s NumPy type for its elements."""
    tensor = tensor.detach().contiguous()
    data: np.ndarray = tensor.reshape(-1).view(torch.uint8).numpy()
    return data.view(_OF_TORCH[tensor.dtype].numpy()).reshape(tuple(tensor.shape))


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
        return cls(array.tobytes(), _OF_TORCH[tensor.dtype], tuple(array.shape))

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


class _Cell:
    """What a tensor and its detached copies, which share memory, are made of now."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin


class Recorded(torch.Tensor):
    """A tensor without data, on the CPU as far as it tells; `origin` says what it is made of."""

    _cell: _Cell
    _view: bool

    @staticmethod
    def __new__(
        cls, origin: Origin | _Cell, like: torch.Tensor | None = None, view: bool = False
    ) -> Recorded:
        cell = origin if isinstance(origin, _Cell) else _Cell(origin)
        dtype = _DTYPES[cell.origin.dtype]
        if like is None:
            like = torch.empty(cell.origin.shape, dtype=dtype, device="meta")
        tensor: Recorded = torch.Tensor._make_wrapper_subclass(
            cls,
            like.shape,
            strides=like.stride(),
            dtype=dtype,
            device=torch.device("cpu"),
            requires_grad=False,
        )
        tensor._cell, tensor._view = cell, view
        return tensor

    @property
    def origin(self) -> Origin:
        """What it is made of."""
        return self._cell.origin

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Recorded({self.origin.key!r}, {list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.data.__set__ and isinstance(args[0], Recorded):  # type: ignore[attr-defined]
            value = args[1]
            # Another memory from now on: what shared the old one keeps it.
            args[0]._cell = value._cell if isinstance(value, Recorded) else _Cell(Constant.of(value))
            return None
        with torch._C.DisableTorchFunctionSubclass():  # Results that are no `Recorded` stay what they are.
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _SAME:
            return Recorded(args[0]._cell, args[0])
        if func in _VALUES:
            real = pytree.tree_map_only(Recorded, lambda t: evaluated(t.origin), (args, kwargs))
            return func(*real[0], **real[1])
        if func._schema.is_mutable:
            return cls._in_place(func, args, kwargs)
        return _record(func, args, kwargs)

    @classmethod
    def _in_place(cls, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Records the operator that returns what `func` would write into its first argument."""
        name = func._schema.name.removeprefix("aten::")
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
        target = args[0]
        if packet is None or not isinstance(target, Recorded) or target._view or not name.endswith("_"):
            raise NotImplementedError(f"{func} writes into a part of a tensor")
        overload = getattr(packet, func._overloadname)
        result = _record(overload, args, kwargs)
        target._cell.origin = result.to(target.dtype).origin
        return target


_SAME = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}
_VALUES = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
}


def _record(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operator's results as tensors that record, their shapes found on the meta device."""
    if "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    shapes = pytree.tree_map_only(torch.Tensor, _shape, (args, kwargs))
    if "device" in kwargs:
        shapes[1]["device"] = torch.device("meta")
    results = func(*shapes[0], **shapes[1])
    if any(leaf.is_meta for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)):
        return results  # Of a tensor that has no values yet: somebody fills it in later.
    arguments = _frozen(args)
    keywords = tuple((name, _frozen(value)) for name, value in kwargs.items())

    def recorded(result: torch.Tensor, output: int | None) -> Recorded:
        dtype, shape = _OF_TORCH[result.dtype], tuple(result.shape)
        origin = Computed(func, arguments, keywords, output, dtype, shape)
        return Recorded(origin, result, view=func.is_view)

    if isinstance(results, torch.Tensor):
        return recorded(results, None)
    return type(results)(recorded(result, number) for number, result in enumerate(results))


def _shape(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape without data; single numbers stay, as operators may need their values."""
    if isinstance(tensor, Recorded):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return tensor if tensor.dim() == 0 else tensor.to("meta")


def _frozen(value: Any) -> Any:
    """Arguments that hash: origins for tensors, tuples for lists."""
    if isinstance(value, Recorded):
        return value.origin
    if isinstance(value, torch.Tensor):
        return Constant.of(value)
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return value


def simplified(origin: Origin, key: str) -> Origin:
    """The origin without steps that change nothing of a weight which becomes float32.

    It is named `key` unless it is stored under a name of its own.
    """
    while isinstance(origin, Computed):
        inner = next(iter(inputs(origin)), None)
        steps = (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)
        if origin.function not in steps or inner is None:
            break
        before, after = _DTYPES[inner.dtype], _DTYPES[origin.dtype]
        widened = before in _FLOATS and after in _FLOATS and torch.promote_types(before, after) is after
        if before is not after and not widened:
            break
        origin = inner
    return origin.named(key) if isinstance(origin, Computed) else origin


def recorded_state(tensors: Mapping[str, Origin]) -> dict[str, torch.Tensor]:
    """A state dict of tensors that record, by their names."""
    return {name: Recorded(origin) for name, origin in tensors.items()}


def some(names: list[str], most: int = 5) -> str:
    """The first of the names, for a message, and how many more there are."""
    shown = ", ".join(itertools.islice(names, most))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
