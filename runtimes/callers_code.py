"""Errors of what the caller of `generate` passes, callbacks and functions that are told of progress: they stay as they
are."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, MethodType
from typing import Any


class _Passing(BaseException):
    """Carries an error past whoever would translate it: no `except Exception` takes it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@contextmanager
def passing(values: Iterable[Any]) -> Iterator[None]:
    """While it is open, errors raised in one of `values` that can be called leave `passed` as they are.

    Told by the traceback: diffusers asks for the class of callbacks, so that nothing may stand in their place.
    """
    codes = {code for value in values if (code := _code(value)) is not None}
    try:
        yield
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code not in codes:
            trace = trace.tb_next
        if trace is None:
            raise
        raise _Passing(error) from None


@contextmanager
def passed() -> Iterator[None]:
    """Where errors that `passing` has let through go on, whatever lies between the two."""
    try:
        yield
    except _Passing as carried:
        error = carried.error
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # not what carried it


def _code(value: Any) -> CodeType | None:
    """The code that runs first where `value` is called; None for what cannot be, or is no Python."""
    for _ in range(16):
        if isinstance(value, functools.partial):
            value = value.func
        elif isinstance(value, MethodType):
            value = value.__func__
        elif isinstance(value, FunctionType):
            return value.__code__
        elif callable(value) and not isinstance(value, type):
            value = type(value).__call__
        else:
            break
    return None
