"""How long work reports itself: plain events, so that no step below the CLI draws anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One report of progress. A task that is complete when it is first heard of is a note: told in one line.

    Attributes:
        task: what is under way, in words a person reads ("unet: streaming weights").
        completed: how much of it is done, in `unit`.
        total: how much there is, or None when nobody knows yet.
        unit: "bytes", "steps" or "" for a plain count.
    """

    task: str
    completed: float
    total: float | None
    unit: str = ""


Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """The `Progress` that reports to nobody."""
