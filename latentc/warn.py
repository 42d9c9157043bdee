"""Warnings of what is wrong with pictures, on stderr, each kind once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from runtimes.flaws import Flaw


class Warnings:
    """Remembers what it has told: one cause shows in all pictures."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def tell(self, flaws: Iterable[Flaw]) -> None:
        """Prints what was not told before."""
        for flaw in flaws:
            if flaw.kind not in self._printed:
                self._printed.add(flaw.kind)
                click.echo(f"Warning: {flaw.message}\n{flaw.hint}", err=True)
