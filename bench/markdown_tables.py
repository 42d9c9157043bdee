"""Markdown tables, whole or line by line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def table(names: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> str:
    """A whole table, without a line's end after it; see `head`."""
    return "\n".join([head(names, right), *map(row, rows)])


def head(names: Sequence[str], right: Collection[str] = ()) -> str:
    """The two lines above the rows.

    Args:
        right: the names of those columns that hold figures.
    """
    rule = ["---:" if name in right else "---" for name in names]
    return f"{row(names)}\n{row(rule)}".replace("|  |", "| |")


def row(cells: Sequence[str]) -> str:
    """One line; the cells are taken as they are."""
    return f"| {' | '.join(cells)} |"
