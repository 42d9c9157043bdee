"""The two tables of docs/sweep.md, each of which is written by its own tests and leaves the other as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.sweep.breadth import CASES

DOCS = Path(__file__).parents[2] / "docs" / "sweep.md"

_BREADTH = "\n## One size, by the call and by `generate`\n"

_INTRODUCTION = """
These are compiled for one size and drawn twice: by the pipeline's own call and by `generate`. The larger of the two
errors is shown. Pictures, videos (their frames) and sounds (their samples) are compared alike.

| model | pipeline | {targets} |
| --- | --- | {rule} |
"""


def parts() -> tuple[str, str]:
    """The page up to the second table, and from its heading on."""
    text = DOCS.read_text(encoding="utf-8") if DOCS.is_file() else ""
    first, heading, second = text.partition(_BREADTH)
    return first, heading + second


def write_first(text: str) -> None:
    """Writes what the page has above the second table."""
    DOCS.write_text(text + parts()[1], encoding="utf-8")


def write_breadth(measured: Mapping[str, Sequence[str]], targets: Sequence[str]) -> None:
    """Writes the second table: what was measured now, and the rows that were there of other cases."""
    first, second = parts()
    rows = {**_rows(second), **measured}
    head = _INTRODUCTION.format(targets=" | ".join(targets), rule=" | ".join("---" for _ in targets))
    lines = [f"| {name} | {' | '.join(rows[name])} |\n" for name in CASES if name in rows]
    DOCS.write_text(first + _BREADTH + head + "".join(lines), encoding="utf-8")


def breadth_rows() -> list[str]:
    """The cases of the second table."""
    return sorted(_rows(parts()[1]))


def _rows(text: str) -> dict[str, tuple[str, ...]]:
    lines = re.findall(r"^\| ([\w-]+) \| (.*) \|$", text, flags=re.MULTILINE)
    return {name: tuple(rest.split(" | ")) for name, rest in lines if name in CASES}
