"""Counts what is written to a module and its submodules: attributes, parameters, buffers, submodules, hooks.

Comparing all of a module with what it was takes a fraction of a millisecond before each call, of memory that the last
call has pushed out of the processor's caches; asking for a number takes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# A module's tables that torch writes to item by item.
TABLES = ("_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks")


class Writes:
    """How many writes there have been. Several threads may write: what counts is that the number changes."""

    def __init__(self) -> None:
        self.count = 0

    def note(self) -> None:
        """There has been another."""
        self.count += 1


def count_writes(module: torch.nn.Module) -> Writes:
    """Counts from now on what is written to `module`; each submodule gets a subclass of its class for that.

    Not seen is what goes around a class's `__setattr__` (``vars(module)[name] = value``), what changes inside of an
    attribute's value, what is written to a tensor in place, and what is written to submodules that are added later.
    A hook that is there already cannot be removed by its handle any more.
    """
    writes = Writes()
    classes: dict[type, type] = {}
    for inner in module.modules():
        cls = type(inner)
        for name in TABLES:
            table = vars(inner)[name]
            kind = _CountedOrderedDict if isinstance(table, OrderedDict) else _CountedDict
            object.__setattr__(inner, name, kind(writes, table))
        if cls not in classes:
            classes[cls] = _counted(cls, writes)
        object.__setattr__(inner, "__class__", classes[cls])
    return writes


def is_counted(value: Any) -> bool:
    """Whether writes to this module, tensor, or table of a module are counted."""
    return isinstance(value, _Counted) or hasattr(type(value), COUNTED)


COUNTED = "_latentc_counted"
"""The attribute of classes of modules and tensors whose instances count what is written to them."""


def _counted(cls: Any, writes: Writes) -> type:
    def set_attribute(self: Any, name: str, value: Any) -> None:
        writes.note()
        cls.__setattr__(self, name, value)

    def delete_attribute(self: Any, name: str) -> None:
        writes.note()
        cls.__delattr__(self, name)

    body = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__setattr__": set_attribute,
        "__delattr__": delete_attribute,
        COUNTED: True,
    }
    return type(cls.__name__, (cls,), body)


class _Counted(dict):  # type: ignore[type-arg]
    """A dict whose changes are counted."""

    writes: Writes

    def __init__(self, writes: Writes, items: Any) -> None:
        self.writes = Writes()
        super().__init__(items)
        self.writes = writes

    def __reduce__(self) -> Any:
        # A copy is a table of a module that nobody watches.
        return (OrderedDict if isinstance(self, OrderedDict) else dict), (list(self.items()),)


def _noting(name: str) -> Callable[..., Any]:
    def method(self: _Counted, *args: Any, **kwargs: Any) -> Any:
        self.writes.note()
        return getattr(super(_Counted, self), name)(*args, **kwargs)

    method.__name__ = name
    return method


for _name in "__setitem__ __delitem__ __ior__ clear pop popitem setdefault update move_to_end".split():
    setattr(_Counted, _name, _noting(_name))


class _CountedDict(_Counted):
    """Of torch's plain tables."""


class _CountedOrderedDict(_Counted, OrderedDict):  # type: ignore[type-arg]
    """Of torch's tables of hooks, which are put in order."""
