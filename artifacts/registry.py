"""Objects by name: ours in a table, those of other packages through entry points; none is imported before its use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any


@dataclass(frozen=True)
class Registry:
    """
    Attributes:
        table: ours by name, each as "module:object".
        group: of the entry points by which other packages add theirs; a name of ours stays ours.
    """

    table: Mapping[str, str]
    group: str

    def names(self) -> tuple[str, ...]:
        """All names, ours first."""
        added = (entry.name for entry in metadata.entry_points(group=self.group))
        return (*self.table, *(name for name in added if name not in self.table))

    def load(self, name: str) -> Any:
        """The object called `name`, imported; None where there is none."""
        path = self.table.get(name)
        if path is None:
            entries = metadata.entry_points(group=self.group)
            path = next((entry.value for entry in entries if entry.name == name), None)
        if path is None:
            return None
        module, _, attribute = path.partition(":")
        return getattr(importlib.import_module(module), attribute)
