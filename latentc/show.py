"""How commands print: tables of at most 100 columns, sizes and numbers for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from artifacts.units import size as size

WIDTH = 100


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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = Console()
    console = Console(highlight=False, width=min(WIDTH, terminal.width) if terminal.is_terminal else WIDTH)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        if name in right:
            grid.add_column(name, justify="right", no_wrap=True)
        else:
            grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*(Text("\n".join(plain(line) for line in str(cell).split("\n"))) for cell in row))
    console.print(grid)


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
