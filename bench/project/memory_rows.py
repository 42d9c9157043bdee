"""What a picture took of the memory, as rows of a table: for `bench.project.run_memory`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench import markdown_tables
from bench.project.memlimit import MIB, Usage

LEAST, MOST = 0.9, 1.2
"""What a plan may say for each byte that a process took."""


@dataclass(frozen=True)
class Row:
    """What one process took.

    Attributes:
        way: what the plan said is done; empty for peers.
        planned: bytes that the plan said this takes.
        likeness: dB to the picture without a limit, infinite for the same; None where there is none to compare with.
        seconds: opening graphs and drawing; None for peers.
    """

    case: str
    who: str
    limit: int | None
    usage: Usage
    way: str = ""
    planned: int | None = None
    likeness: float | None = None
    seconds: float | None = None

    @property
    def ratio(self) -> float | None:
        """The plan's bytes for each byte that was measured."""
        if self.planned is None or not self.usage.anonymous or self.usage.status:
            return None
        return self.planned / self.usage.anonymous

    @property
    def holds(self) -> bool:
        """Whether it drew, the picture is that without a limit, and the plan is near enough, where these are known."""
        near = self.ratio is None or LEAST <= self.ratio <= MOST
        same = self.limit is None or self.likeness == math.inf
        return self.usage.status == 0 and same and near


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""

    def mib(count: int | None) -> str:
        return "" if count is None else f"{count // MIB:,} MiB"

    def outcome(row: Row) -> str:
        if row.usage.killed:
            return "killed"
        if row.usage.status:
            return f"failed ({row.usage.status})"
        if row.likeness is None:
            return "drawn"
        return "equal" if math.isinf(row.likeness) else f"{row.likeness:.1f} dB"

    def price(row: Row) -> str:
        free = next((r.seconds for r in rows if (r.case, r.who, r.limit) == (row.case, row.who, None)), None)
        return "" if None in (row.limit, row.seconds) or not free else f"{row.seconds / free:.2f} times"  # type: ignore[operator]

    figures = (
        "hard limit",
        "of no file",
        "plan",
        "plan / measured",
        "whole process",
        "with page cache",
        "time",
        "price",
    )
    return markdown_tables.table(
        ("model", "", *figures[:1], "picture", "way", *figures[1:]),
        [
            (
                row.case,
                row.who,
                "none" if row.limit is None else f"{row.limit:,} MiB",
                outcome(row),
                row.way,
                mib(row.usage.anonymous),
                mib(row.planned),
                "" if row.ratio is None else f"{row.ratio:.2f}",
                mib(row.usage.resident),
                mib(row.usage.peak),
                f"{row.usage.seconds if row.seconds is None else row.seconds:.0f} s",
                price(row),
            )
            for row in rows
        ],
        right=figures,
    )
