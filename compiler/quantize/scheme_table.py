"""The one visible table of weight schemes. Third parties add theirs through the entry points `latentc.schemes`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from artifacts.errors import UsageError
from artifacts.registry import Registry
from artifacts.units import whole_number
from compiler.quantize.scheme import Scheme, SchemeOptions

ENTRY_POINTS = "latentc.schemes"

SCHEMES: dict[str, str] = {
    "int8": "compiler.quantize.int8:SCHEME",
    "int4": "compiler.quantize.int4:SCHEME",
    "nf4": "compiler.quantize.nf4:SCHEME",
    "int8-activations": "compiler.quantize.int8_activations:SCHEME",
}
_REGISTRY = Registry(SCHEMES, ENTRY_POINTS)


def names() -> tuple[str, ...]:
    """All schemes by name, ours first; imports none of them."""
    return _REGISTRY.names()


def get(name: str) -> Scheme[Any]:
    """The scheme called `name`.

    Raises:
        UsageError: there is none.
    """
    loaded = _REGISTRY.load(name)
    if loaded is None:
        raise UsageError(f"there is no weight scheme '{name}' (there are: {', '.join(names())}).")
    return cast("Scheme[Any]", loaded)


def options(name: str, overrides: Mapping[str, object]) -> SchemeOptions:
    """The scheme's options with those that are given; texts become what the option is.

    Raises:
        UsageError: the scheme has no such option, or not that value of it.
    """
    scheme = get(name)
    fields = {f.name: f for f in dataclasses.fields(scheme.options)}
    values: dict[str, Any] = {}
    for key, value in overrides.items():
        if key not in fields:
            raise UsageError(
                f"the scheme '{name}' has no option '{key}' (it has: {', '.join(fields) or 'none'})."
            )
        kind: Any = type(fields[key].default)
        values[key] = _value(name, key, value, kind)
        choices = scheme.choices.get(key)
        if choices is not None and values[key] not in choices:
            allowed = ", ".join(map(str, choices))
            raise UsageError(f"{name}:{key}={value}: it is one of {allowed}.")
    return cast(SchemeOptions, scheme.options(**values))


_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def _value(scheme: str, key: str, value: object, kind: type) -> Any:
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        if kind is int and int(cast(int, value)) < 0:
            raise UsageError(f"{scheme}:{key}={value}: it is at least 0.")
        return value
    text = str(value).lower()
    if kind is bool and text in _TRUE + _FALSE:
        return text in _TRUE
    if kind is int and (number := whole_number(text)) is not None:
        return number
    if kind is str:
        return text
    raise UsageError(f"{scheme}:{key}={value}: expected {'yes or no' if kind is bool else 'a whole number'}.")
