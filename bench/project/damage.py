"""Random changes of JSON values and of files, which say what they changed."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 10**30, 0.5, -0.0, 1e308, "", "a", "..", "../x", "/etc/passwd",
    "C:/x", "a\\b", "\x00", "é", "a" * 5000, "__class__", "os:system", "diffusers:UNet2DModel", [], {}, [[]],
    {"": None},
)  # fmt: skip


def mutate(value: Any, rng: random.Random) -> str:
    """Changes one place of a JSON value in place; returns where and how."""
    holders = [(at, v) for at, v in _places(value, "") if isinstance(v, (dict, list)) and v]
    if not holders:
        return "nothing"
    at, holder = rng.choice(holders)
    key: Any = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    kind = rng.choice(("value", "value", "value", "remove", "rename", "double", "graft", "deep"))
    if kind == "remove":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[key + rng.choice(("x", "_", "\u0000", "é"))] = holder.pop(key)
    elif kind == "double" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == "graft":
        holder[key] = copy.deepcopy(rng.choice([v for _, v in _places(value, "")]))
    elif kind == "deep":
        for _ in range(rng.choice((5, 90, 300))):
            holder[key] = [holder[key]]
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    return f"{kind} at {at}.{key}"[:200]


def _places(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    pending = [(at, value)]
    while pending:
        where, inner = pending.pop()
        yield where, inner
        if isinstance(inner, dict):
            pending += [(f"{where}.{key}", v) for key, v in inner.items()]
        elif isinstance(inner, list):
            pending += [(f"{where}.{i}", v) for i, v in enumerate(inner)]


def flip(file: Path, rng: random.Random) -> str:
    """Flips up to three bits of a file in place; returns which."""
    data = bytearray(file.read_bytes() or b"\0")
    bits = sorted({rng.randrange(len(data) * 8) for _ in range(rng.randint(1, 3))})
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    return f"flip {bits} of {file.name}"
