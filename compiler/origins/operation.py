"""An operator of PyTorch on origins, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx_ir as ir

from targets.graph.weights import Origin


@dataclass(frozen=True, eq=False)
class Operation:
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
        if not isinstance(other, Operation):
            return NotImplemented
        return self._hash == other._hash and self._identity == other._identity


def inputs(origin: Origin) -> tuple[Origin, ...]:
    """The origins that an origin is computed from, each as often as it is used; none for what is stored."""
    if not isinstance(origin, Operation):
        return ()
    return tuple(leaf for leaf in _leaves((origin.arguments, origin.keywords)) if is_origin(leaf))


def _leaves(value: Any) -> Iterator[Any]:
    """What frozen arguments hold."""
    if isinstance(value, tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


_KINDS: dict[type, bool] = {}


def is_origin(value: Any) -> bool:
    """Whether an argument of an operator stands for a tensor."""
    kind = type(value)
    # A protocol looks for every attribute by its name; a class either has them all, or none of its instances has.
    if kind not in _KINDS:
        _KINDS[kind] = isinstance(value, Origin)
    return _KINDS[kind]
