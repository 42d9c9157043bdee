"""Which keys of a configuration an error is about, where a class that is made of it does not say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from runtimes.configs import UNLIMITED

MOST = 3
"""Keys that a message names."""
_COMMON = 8
"""Whole numbers from here down to 0 stand in too many messages and too many places of a configuration."""
_LARGE = 10**6
_WORDS = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|\w+")


def largest_figures(config: bytes) -> str:
    """The keys of the largest whole numbers, as a sentence; empty where there is none.

    Args:
        config: a JSON object.
    """
    return _sentence("Its largest figures", _figures(config)[:MOST])


def largest_figure(config: bytes) -> int:
    """The largest whole number in a configuration; 0 for none."""
    return max((value for _, value in _figures(config)), default=0)


def keys_behind(error: BaseException, config: bytes) -> str:
    """The keys whose values an error names, or else those whose figures are odd, as a sentence; empty for none.

    Args:
        config: a JSON object.
    """
    words = set(_WORDS.findall(str(error)))
    leaves = [(key, value) for key, value in _leaves(config) if value is not None]
    named = [(key, value) for key, value in leaves if _is_named(value, words)]
    if named and len(named) <= MOST:
        return _sentence("It may be about", named)
    return _sentence("It may be about", [(key, value) for key, value in leaves if _is_odd(value)][:MOST])


def _figures(config: bytes) -> list[tuple[str, int]]:
    """The whole numbers, the largest first."""
    figures = [(key, value) for key, value in _leaves(config) if type(value) is int and value < UNLIMITED]
    return sorted(figures, key=lambda figure: -figure[1])


def _leaves(config: bytes) -> Iterator[tuple[str, Any]]:
    try:
        pending = [("", json.loads(config))]
    except (ValueError, RecursionError):
        return
    while pending:
        at, value = pending.pop(0)
        if isinstance(value, dict) and value:
            pending += [(f"{at}.{key}" if at else key, inner) for key, inner in value.items()]
        elif isinstance(value, list) and value:
            pending += [(f"{at}[{i}]", inner) for i, inner in enumerate(value)]
        elif not at.rpartition(".")[2].startswith("_"):
            yield at, value


def _is_named(value: Any, words: set[str]) -> bool:
    if type(value) is int:
        return not 0 <= value <= _COMMON and str(value) in words
    return isinstance(value, str) and len(value) > 1 and set(_WORDS.findall(value)) <= words


def _is_odd(value: Any) -> bool:
    if type(value) in (int, float):
        return value <= 0 and type(value) is int or value < 0 or _LARGE < value < UNLIMITED
    return value in ([], {}, "")


def _sentence(start: str, leaves: list[tuple[str, Any]]) -> str:
    if not leaves:
        return ""
    values = ((key, json.dumps(value)) for key, value in leaves)
    return f" {start}: " + ", ".join(f"'{key}' = {text[:40]}" for key, text in values) + "."
