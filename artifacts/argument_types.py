"""Arguments of the API's functions are what their annotations say, or a `UsageError` says what they are to be.

The annotations are the one list of what a function takes. Numbers of other libraries (NumPy's, a tensor of one) are
made Python's own, which JSON and the compiler's requests hold.
"""

from __future__ import annotations

import builtins
import collections.abc
import dataclasses
import functools
import inspect
import operator
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from artifacts.error_text import value_text
from artifacts.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
Request = TypeVar("Request")

_NOT_SEQUENCES = (str, bytes, bytearray, collections.abc.Mapping)


class _Misfit(Exception):
    """A value is not what an annotation says."""


def typed(function: Function) -> Function:
    """The same function, whose arguments are looked at first; see this module.

    Values of ``*args`` and ``**kwargs`` are taken as they are, and so are defaults.
    """
    signature = inspect.signature(function)

    @functools.lru_cache(maxsize=1)
    def hints() -> dict[str, Any]:
        names = _Names(function.__globals__)
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {
            name: names.evaluated(parameter.annotation)
            for name, parameter in signature.parameters.items()
            if parameter.annotation is not parameter.empty and parameter.kind not in several
        }

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own words are better.
        for name, value in bound.arguments.items():
            if name in hints() and value is not signature.parameters[name].default:
                bound.arguments[name] = _fitted(name, value, hints()[name])
        return function(*bound.args, **bound.kwargs)

    return typing.cast(Function, call)


def with_fields_fitted(request: Request) -> Request:
    """A dataclass, such as a request that somebody made, whose fields are what its annotations say.

    Raises:
        UsageError: one is nothing of that kind.
    """
    cls: Any = type(request)
    fields = {name: (getattr(request, name), hint) for name, hint in _fields(cls).items()}
    fitted = {name: _fitted(name, value, hint) for name, (value, hint) in fields.items()}
    changed = {name: value for name, value in fitted.items() if value is not fields[name][0]}
    return dataclasses.replace(request, **changed) if changed else request  # type: ignore[type-var]


@functools.lru_cache(maxsize=32)
def _fields(cls: type) -> Mapping[str, Any]:
    names = _Names(vars(sys.modules[cls.__module__]))
    return {field.name: names.evaluated(field.type) for field in dataclasses.fields(cls)}


def _fitted(name: str, value: Any, hint: Any) -> Any:
    try:
        return _fit(value, hint)
    except _Misfit:
        raise UsageError(f"'{name}' is {_words(hint)}; found {value_text(value)}.") from None


class _Names(dict[str, Any]):
    """Names of a module. One that is imported for type checkers only stands for each class of that name: who gives an
    object of it has imported it."""

    def __init__(self, module: Mapping[str, Any]) -> None:
        super().__init__()
        self._module = module

    def __missing__(self, name: str) -> Any:
        if name in self._module:
            return self._module[name]
        return getattr(builtins, name) if hasattr(builtins, name) else _ClassByName(name, (), {})

    def evaluated(self, annotation: Any) -> Any:
        """The annotation without texts and forward references."""
        if isinstance(annotation, typing.ForwardRef):
            annotation = annotation.__forward_arg__
        if isinstance(annotation, str):
            annotation = eval(annotation, {}, self)  # noqa: S307  # our own source
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (typing.Union, types.UnionType):
            return functools.reduce(operator.or_, (_as_class(self.evaluated(arg)) for arg in args))
        if origin in (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Mapping, tuple):
            return origin[tuple(arg if arg is ... else self.evaluated(arg) for arg in args)]
        return annotation


class _ClassByName(type):
    """A class of which each object is whose class, or a class that this derives from, has its name."""

    def __instancecheck__(cls, value: Any) -> bool:
        return any(base.__name__ == cls.__name__ for base in type(value).__mro__)


def _as_class(hint: Any) -> Any:
    return types.NoneType if hint is None else hint


def _fit(value: Any, hint: Any) -> Any:
    """`value`, or what it is as `hint` has it.

    Raises:
        _Misfit: it is nothing of that kind.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object):
        return value
    if origin in (typing.Union, types.UnionType):
        for arm in args:
            try:
                return _fit(value, arm)
            except _Misfit:
                continue
        raise _Misfit
    if (make := _PLAIN.get(hint)) is not None:
        return make(value)
    if origin is tuple and ... not in args:
        items = _items(value)
        if len(items) != len(args):
            raise _Misfit
        return tuple(map(_fit, items, args))
    if origin in (collections.abc.Sequence, collections.abc.Iterable, tuple):
        return _same_or(value, [_fit(item, args[0]) for item in _items(value)])
    if origin is collections.abc.Mapping:
        if not isinstance(value, collections.abc.Mapping):
            raise _Misfit
        converted = {_fit(key, args[0]): _fit(inner, args[1]) for key, inner in value.items()}
        return value if all(converted[key] is value[key] for key in converted if key in value) else converted
    if not isinstance(value, origin or hint):
        raise _Misfit
    return value


def _items(value: Any) -> list[Any]:
    if isinstance(value, _NOT_SEQUENCES) or not isinstance(value, Iterable):
        raise _Misfit
    try:
        return list(value)
    except Exception:  # A tensor of no dimension.
        raise _Misfit from None


def _same_or(value: Any, items: list[Any]) -> Any:
    """A list or a tuple itself where its items are as they were."""
    same = isinstance(value, (list, tuple)) and all(map(operator.is_, value, items))
    return value if same else tuple(items) if isinstance(value, tuple) else items


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise _Misfit
    return value


def _switch(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise _Misfit


def _integer(value: Any) -> Any:
    if isinstance(value, bool):
        raise _Misfit
    try:
        return value if type(value) is int else operator.index(value)
    except Exception:  # A tensor of several numbers, or of fractions.
        raise _Misfit from None


def _number(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, bool) or not hasattr(type(value), "__float__"):
        raise _Misfit
    try:
        return float(value)
    except Exception:  # A tensor of several numbers.
        raise _Misfit from None


def _path(value: Any) -> Any:
    if not isinstance(value, (str, os.PathLike)):
        raise _Misfit
    return value if isinstance(value, Path) else Path(value)


# What is more than an object of a class.
_PLAIN: Mapping[Any, Callable[[Any], Any]] = {
    str: _text,
    bool: _switch,
    int: _integer,
    float: _number,
    Path: _path,
}

_WORDS: Mapping[Any, str] = {
    str: "a text",
    bool: "True or False",
    int: "an integer",
    float: "a number",
    Path: "a path",
    os.PathLike: "a path",
    collections.abc.Callable: "a function",
    type: "a class",
}


def _words(hint: Any) -> str:
    """What a value is to be, in words; None goes without saying."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _either([_words(arm) for arm in args if arm is not types.NoneType])
    if (words := _WORDS.get(origin or hint)) is not None:
        return words
    if origin is tuple and ... not in args:
        return f"({', '.join(map(_words, args))})"
    if origin in (collections.abc.Sequence, collections.abc.Iterable, tuple):
        return f"a list (of each: {_words(args[0])})"
    if origin is collections.abc.Mapping:
        return f"a dict (of each: {_words(args[0])} -> {_words(args[1])})"
    if getattr(hint, "_is_protocol", False):
        return f"an object with {' and '.join(name for name in vars(hint) if not name.startswith('_'))}"
    if hint in (Any, object):
        return "anything"
    name = str(getattr(hint, "__name__", hint))
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _either(words: Sequence[str]) -> str:
    several = list(dict.fromkeys(words))
    return " or ".join(filter(None, (", ".join(several[:-1]), several[-1])))
