"""How commands print: tables of at most 100 columns, sizes and numbers for people, JSON for scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from artifacts.units import size as size

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100

_WORD = 24
"""Characters: longer words (names of tensors) may be broken."""


def number(count: int) -> str:
    """A number of parameters for a person: "7.2 M"."""
    value = float(count)
    for unit in ("", "k", "M"):
        if abs(value) < 999.95:
            return f"{value:.1f} {unit}" if unit else str(count)
        value /= 1000
    return f"{value:.2f} G"


def plain(value: object) -> str:
    """`value` as text that a terminal cannot take for a command: control characters are escaped."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> None:
    """Prints a table to stdout; cells are taken literally. `right`: the columns of figures."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [["\n".join(plain(line) for line in str(cell).split("\n")) for cell in row] for row in rows]
    console = _console()
    if console.width < min(WIDTH, _needed(columns, cells, right)):
        _records(columns, cells)
        return
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        if name in right:
            grid.add_column(name, justify="right", no_wrap=True)
        else:
            grid.add_column(name, overflow="fold")
    for row in cells:
        grid.add_row(*map(Text, row))
    console.print(grid)


def _console() -> Console:
    """Stdout: as wide as its terminal, up to `WIDTH`; without any style where NO_COLOR asks for that."""
    from rich.console import Console

    terminal = Console()
    width = min(WIDTH, terminal.width) if terminal.is_terminal else WIDTH
    if os.environ.get("NO_COLOR"):
        return Console(highlight=False, width=width, color_system=None)
    return Console(highlight=False, width=width)


def _needed(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Iterable[str]) -> int:
    """The columns of a terminal that a table needs, if its words are to stay whole, up to some length."""
    gap = 2
    figures = set(right)
    needed = 0
    for at, name in enumerate(columns):
        texts = [name, *(row[at] for row in cells)]
        words = texts if name in figures else [w for text in texts for w in text.split()]
        longest = max(map(len, words), default=0)
        needed += (longest if name in figures else min(longest, _WORD)) + gap
    return needed - gap


def _records(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Prints each row as lines of "column: cell", for a terminal that is too narrow for the table."""
    for number, row in enumerate(cells):
        if number:
            print()
        for name, cell in zip(columns, row, strict=True):
            first, *more = cell.split("\n")
            print(f"{name}: {first}".rstrip())
            for line in more:
                print(f"  {line}")


def as_json(value: Any) -> None:
    """Prints `value` as JSON to stdout; not-a-number becomes null, since JSON has none."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
