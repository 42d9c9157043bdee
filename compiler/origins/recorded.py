"""Tensors that record what is done to them, so that a library's own code says how weights are made of stored ones.

A `Recorded` tensor has a shape and no data. Code that renames, cuts, joins, transposes or adds such tensors leaves
behind, in each result's `origin`, the operators and the stored tensors that it is made of
(`compiler.origins.computed`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from compiler.origins.computed import Computed, Constant
from compiler.origins.operation import inputs
from compiler.origins.operation_results import DTYPES, OF_TORCH, evaluated
from targets.graph.weights import Origin

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
        dtype = DTYPES[cell.origin.dtype]
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
        dtype, shape = OF_TORCH[result.dtype], tuple(result.shape)
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
        before, after = DTYPES[inner.dtype], DTYPES[origin.dtype]
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
