"""Warnings of what is wrong with pictures, and notes on how they were made, on stderr, each once."""

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

    def note(self, text: str) -> None:
        """Prints a note that was not told before; nothing for none."""
        if text and text not in self._printed:
            self._printed.add(text)
            click.echo(f"Note: {text}", err=True)

    def tell(self, flaws: Iterable[Flaw]) -> None:
        """Prints what was not told before."""
        for flaw in flaws:
            if flaw.kind not in self._printed:
                self._printed.add(flaw.kind)
                click.echo(f"Warning: {flaw.message}\n{flaw.hint}", err=True)
