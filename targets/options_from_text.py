"""A target's own options, from texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from artifacts.errors import UsageError
from targets.target_contract import Target


def parse(target: Target, texts: Mapping[str, str]) -> Any:
    """The target's options dataclass; what `texts` does not name has its default.

    Raises:
        UsageError: the target has no such option, or the text is not of its type.
    """
    fields = {f.name: f for f in dataclasses.fields(target.options)}
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in fields:
            available = ", ".join(fields) or "none"
            raise UsageError(f"target '{target.name}' has no option '{name}' (it has: {available}).")
        kind: Any = type(fields[name].default)
        try:
            values[name] = text.lower() in ("1", "true", "yes", "on") if kind is bool else kind(text)
        except ValueError:
            raise UsageError(f"--option {name}={text}: expected {kind.__name__}.") from None
    return target.options(**values)
