"""Progress events become rich bars on a terminal's stderr; elsewhere only their notes are printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from artifacts.progress import Event, Progress, silent
from artifacts.units import size

if TYPE_CHECKING:
    from rich import progress as rich_progress


class Lines:
    """Prints the notes among the events, a line each, and draws nothing."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._begun: set[str] = set()

    def __call__(self, event: Event) -> None:
        if not _done(event):
            self._begun.add(event.task)
        elif event.task not in self._begun and not event.unit:
            self._write(event.task)


class Bars:
    """One bar for each task that is under way, by the task's own words; a finished one goes away."""

    def __init__(self, display: rich_progress.Progress) -> None:
        self._display = display
        self._ids: dict[str, rich_progress.TaskID] = {}
        self._lines = Lines(lambda text: display.console.print(text, markup=False, highlight=False))

    def __call__(self, event: Event) -> None:
        from rich.markup import escape

        self._lines(event)
        if event.task not in self._ids:
            if _done(event):
                return
            self._ids[event.task] = self._display.add_task(escape(event.task), total=event.total, amount="")
        self._display.update(
            self._ids[event.task], completed=event.completed, total=event.total, amount=_amount(event)
        )
        if _done(event):
            self._display.remove_task(self._ids.pop(event.task))


def _done(event: Event) -> bool:
    return event.total is not None and event.completed >= event.total


def _amount(event: Event) -> str:
    show = size if event.unit == "bytes" else lambda value: f"{value:.0f}"
    if event.total is None:
        return show(event.completed) if event.completed else ""
    unit = "" if event.unit == "bytes" else f" {event.unit}"
    return f"{show(event.completed)}/{show(event.total)}{unit}"


@contextmanager
def bars() -> Iterator[Progress]:
    """The `Progress` to hand to work: bars while stderr is a terminal, otherwise only the notes, in lines.

    Without a stderr, as of a program without a console, nothing is told: `print` would write to stdout.
    """
    if sys.stderr is None:
        yield silent
        return
    if not sys.stderr.isatty():
        yield Lines(lambda text: print(text, file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    # On one terminal, what is printed meanwhile goes above the bars; a redirected stdout is left alone.
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=on_terminal
    ) as display:
        yield Bars(display)
