"""How much longer a tokenizer makes a text before it looks words up: a few rules that double it fill any memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from artifacts import strict_json
from artifacts.errors import LatentcError

TOKENIZER = "tokenizer.json"
"""The file of the library tokenizers."""

MAX_GROWTH = 64
"""Times a text's length. Published tokenizers write one character, or none, in the place of others."""


def check_growth(data: bytes, source: str) -> None:
    """Holds the rules that replace parts of a text to `MAX_GROWTH`, all of them one after another.

    Args:
        data: a tokenizer.json.
        source: the file, for the error.

    Raises:
        LatentcError: it is no JSON, or its rules make a text longer than that.
    """
    growth = math.prod(sorted(_growths(strict_json.loads(data, source)), reverse=True)[:MAX_GROWTH])
    if growth > MAX_GROWTH:
        raise LatentcError(
            f"{source}: its normalizers make a text up to {min(growth, 10**9):,.0f} times as long; at most "
            f"{MAX_GROWTH} times is allowed.",
            "Compile the model again, from a source that you trust.",
        )


def _growths(value: Any) -> Iterator[float]:
    """By how much each rule makes a text longer at most; none where it does not."""
    tokenizer = value if isinstance(value, dict) else {}
    pending = [tokenizer.get(key) for key in ("normalizer", "pre_tokenizer")]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            pending += [inner for inner in node.values() if isinstance(inner, (dict, list))]
            content, pattern = node.get("content"), node.get("pattern")
            if node.get("type") == "Replace" and isinstance(content, str):
                text = pattern.get("String") if isinstance(pattern, dict) else pattern
                # An expression may match a single character, and the empty text is before each.
                growth = len(content) / len(text) if isinstance(text, str) and text else len(content) + 1.0
                if isinstance(pattern, dict) and "Regex" in pattern:
                    growth = float(max(len(content), 1))
                if growth > 1:
                    yield growth
