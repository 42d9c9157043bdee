"""Torch's bookkeeping of symbolic sizes, made cheaper while a graph is exported; results are the same."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# An export makes millions of small objects that live to its end: looking for cycles among them frees nothing.
_ALLOCATIONS_PER_COLLECTION = 200_000


@contextmanager
def quick() -> Iterator[None]:
    """While it is open, exports take about a sixth less time."""
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, *before[1:])
    try:
        with _remembered_numbers():
            yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _remembered_numbers() -> Iterator[None]:
    """Whether a size is a number is asked millions of times, and sympy walks the whole expression each time.

    Private to torch; where it looks different, nothing is changed.
    """
    from torch.fx.experimental.sym_node import SymNode

    fields = ("_expr_cache", "_expr_ver")
    before = (SymNode.__dict__.get("expr"), SymNode.__dict__.get("maybe_as_int"))
    code: Any = getattr(getattr(before[0], "fget", None), "__code__", None)
    if code is None or before[1] is None or not set(fields) <= set(code.co_names):
        yield
        return
    numbers: dict[Any, bool] = {}

    def is_number(expression: Any) -> bool:
        found = numbers.get(expression)
        if found is None:
            found = numbers[expression] = bool(expression.is_number)
        return found

    def expr(self: Any) -> Any:
        own = self._expr
        version = 0 if self.shape_env is None else self.shape_env._replacements_version_counter
        if isinstance(own, int) or version == 0:
            return own
        if self._expr_cache is None or version != self._expr_ver:
            self._expr_cache = own if is_number(own) else self.shape_env.replace(own)
            self._expr_ver = version
        return self._expr_cache

    def maybe_as_int(self: Any) -> int | None:
        now = expr(self)
        return int(now) if isinstance(now, int) or is_number(now) else None

    SymNode.expr = property(expr)  # type: ignore[method-assign,assignment]
    SymNode.maybe_as_int = maybe_as_int  # type: ignore[method-assign]
    try:
        yield
    finally:
        SymNode.expr = before[0]  # type: ignore[method-assign,assignment]
        SymNode.maybe_as_int = before[1]  # type: ignore[method-assign]
