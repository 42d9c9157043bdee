"""A method call as named arguments, the same way when it is captured and when it is answered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from artifacts.errors import LatentcError


def signature(cls: type, method: str) -> inspect.Signature:
    """The parameters of ``cls.method`` without `self`; decorators are seen through.

    Raises:
        LatentcError: the class has no such method.
    """
    function = getattr(cls, method, None)
    if not callable(function):
        raise LatentcError(f"the installed {cls.__module__}.{cls.__qualname__} has no method '{method}'.")
    return _without_self(function)


@lru_cache(maxsize=1024)  # Read at every call of every component.
def _without_self(function: Callable[..., Any]) -> inspect.Signature:
    whole = inspect.signature(function)
    return whole.replace(parameters=list(whole.parameters.values())[1:])


def bind(cls: type, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Parameter name -> value, defaults filled in; ``*args`` a tuple and ``**kwargs`` a dict.

    Raises:
        TypeError: the arguments do not fit the method, as Python itself would say.
    """
    bound = signature(cls, method).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def defaults(cls: type, method: str) -> dict[str, Any]:
    """Parameter name -> value when the caller passes nothing; parameters without a default are absent."""
    empty: dict[Any, Any] = {inspect.Parameter.VAR_POSITIONAL: (), inspect.Parameter.VAR_KEYWORD: {}}
    found = {name: empty.get(p.kind, p.default) for name, p in signature(cls, method).parameters.items()}
    return {name: value for name, value in found.items() if value is not inspect.Parameter.empty}
