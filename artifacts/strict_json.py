"""JSON from files that others wrote: refused when two readers could understand it differently."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from artifacts.errors import LatentcError

MAX_DEPTH = 100
"""Objects and lists in each other. What is written here, and what models bring, has some ten."""
MAX_VALUES = 2_000_000
"""Each takes some 100 bytes of memory, and 2 in a file. The largest manifests have some 100,000."""


class _Refused(ValueError):
    pass


def loads(data: bytes, source: str, constants: bool = False) -> Any:
    """The value in `data`.

    Args:
        data: UTF-8 without a byte order mark.
        source: the file, for the error ("/models/x/latentc.json").
        constants: let NaN and the infinities pass, which schedulers' settings hold.

    Raises:
        LatentcError: not UTF-8, not JSON, a key twice in one object, NaN or an infinity, a lone surrogate, or
            nested too deep, or of more than `MAX_VALUES` values.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise LatentcError(f"{source} holds more than {MAX_VALUES} values.")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=float if constants else _constant,
            parse_float=float if constants else _finite,
        )
        if b"\\u" in data:  # what was decoded strictly has no lone surrogate but an escaped one
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except _Refused as error:
        raise LatentcError(f"{source}: {error}.") from None
    except UnicodeEncodeError:
        raise LatentcError(
            f"{source} holds text that is not valid Unicode (half of a surrogate pair)."
        ) from None
    except RecursionError:
        raise LatentcError(f"{source} is nested too deep.") from None
    except ValueError as error:
        raise LatentcError(f"{source} is not valid JSON: {error}.") from None
    if _depth(value) > MAX_DEPTH:
        raise LatentcError(f"{source} is nested too deep.")
    return value


def _depth(value: Any) -> int:
    """How many objects and lists are in each other, up to one more than is allowed."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        inner = [v for v in level if isinstance(v, (dict, list))]
        depth += bool(inner)
        level = [v for c in inner for v in (c.values() if isinstance(c, dict) else c)]
    return depth


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"the key {twice!r} is there twice")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # 1e999: JSON has no word for what Python makes of it
        raise _Refused(f"{text[:40]} is larger than any number")
    return number


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON number")
