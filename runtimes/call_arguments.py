"""A method call as named arguments, the same way when it is captured and when it is answered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from artifacts.call_trees import ConstLeaf, MappingNode, Tree
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
    whole = signature(cls, method)
    values = _form(getattr(cls, method)).bind(args, kwargs)
    if values is not None:
        return values
    bound = whole.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def parameters_of(
    cls: type, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, ...] | None:
    """The parameter that each value of a call is passed to, in their order; None where ``*args`` or ``**kwargs`` take
    some."""
    signature(cls, method)
    return _form(getattr(cls, method)).parameters_of(args, kwargs)


class _Form:
    """A method's parameters, laid out for binding: `inspect` takes 50 microseconds a call, this takes three.

    It binds what fits; what does not is left to `inspect`, which says why.
    """

    def __init__(self, parameters: Sequence[inspect.Parameter]) -> None:
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        unbound: dict[Any, Any] = {inspect.Parameter.VAR_POSITIONAL: (), inspect.Parameter.VAR_KEYWORD: {}}
        self._positional = tuple(p.name for p in parameters if p.kind in plain)
        self._named = frozenset(p.name for p in parameters if p.kind in named)
        self._required = frozenset(
            p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in unbound
        )
        self._rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        self._values = {p.name: unbound.get(p.kind, p.default) for p in parameters}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """See `bind`; None where the arguments do not fit, or ``*args`` takes some."""
        first = self._positional[: len(args)]
        if len(first) < len(args) or not self._required.issubset((*first, *kwargs)):
            return None
        values = dict(self._values)
        values.update(zip(first, args, strict=True))
        rest: dict[str, Any] = {}
        for name, value in kwargs.items():
            if name in first:
                return None
            if name in self._named:
                values[name] = value
            else:
                rest[name] = value
        if self._rest is not None:
            values[self._rest] = rest
        elif rest:
            return None
        return values

    def parameters_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...] | None:
        """See `parameters_of`, for arguments that fit."""
        if len(args) > len(self._positional) or not self._named.issuperset(kwargs):
            return None
        return (*self._positional[: len(args)], *kwargs)


@lru_cache(maxsize=1024)
def _form(function: Callable[..., Any]) -> _Form:
    return _Form(list(_without_self(function).parameters.values()))


def defaults(cls: type, method: str) -> dict[str, Any]:
    """Parameter name -> value when the caller passes nothing; parameters without a default are absent."""
    empty: dict[Any, Any] = {inspect.Parameter.VAR_POSITIONAL: (), inspect.Parameter.VAR_KEYWORD: {}}
    values = {name: empty.get(p.kind, p.default) for name, p in signature(cls, method).parameters.items()}
    return {name: value for name, value in values.items() if value is not inspect.Parameter.empty}


_SWITCHES = ("output_hidden_states", "output_attentions", "return_dict")
"""Arguments of all modules of transformers whose defaults are entries of the same names in their configs."""


def without_defaults(
    cls: type, config: Any, bound: dict[str, Any], recorded: Sequence[Mapping[str, Tree]]
) -> dict[str, Any]:
    """A call of a transformers module as graphs were recorded with it, where only defaults are apart: switches as the
    config has them, an `attention_mask` of ones, which masks nothing, and hidden states that the caller does not want.

    Args:
        config: the module's.
        recorded: the arguments of each recorded call.
    """
    if not cls.__module__.startswith("transformers."):
        return bound
    plain = _switched(bound, config, recorded)
    for name, value in bound.items():
        trees = [arguments.get(name) for arguments in recorded]
        items = [tree.items for tree in trees if isinstance(tree, MappingNode)]
        if isinstance(value, dict) and len(items) == len(trees):
            plain[name] = _switched(value, config, items)
    mask = bound.get("attention_mask")
    unused = all(arguments.get("attention_mask") == ConstLeaf(value=None) for arguments in recorded)
    if mask is not None and hasattr(mask, "detach") and unused and not bool((mask != 1).any()):
        plain["attention_mask"] = None
    return plain


def _switched(
    values: Mapping[str, Any], config: Any, recorded: Sequence[Mapping[str, Tree]]
) -> dict[str, Any]:
    result = dict(values)
    for name in _SWITCHES:
        trees = [arguments.get(name) for arguments in recorded]
        unused = all(tree is None or tree == ConstLeaf(value=None) for tree in trees)
        if unused and name in values and values[name] is getattr(config, name, None):
            result[name] = None
        elif name == _SWITCHES[0] and trees and all(tree == ConstLeaf(value=True) for tree in trees):
            result[name] = True
    return result
