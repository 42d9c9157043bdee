"""Progress bars in notebooks: of diffusers' own loops, and of progress events that nobody else draws."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from artifacts.progress import Event, Progress, silent


def in_notebook() -> bool:
    """Whether this interpreter answers a notebook (Jupyter, Colab, an editor's), rather than a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # What tqdm.auto looks at, so that its bars and ours appear in the same places.
    return shell is not None and "IPKernelApp" in shell.config


def bars_are_seen() -> bool:
    """Whether a bar that is drawn moves before somebody's eyes: on a terminal, or in a notebook."""
    return in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


@contextmanager
def notebook_bars(progress: Progress) -> Iterator[Progress]:
    """`progress` itself, or bars in a notebook where it is `silent`."""
    if progress is not silent or not in_notebook():
        yield progress
        return
    bars = NotebookBars()
    try:
        yield bars
    finally:
        bars.close()


@contextmanager
def bars_where_seen(pipelines: Iterable[Any]) -> Iterator[None]:
    """No bars of diffusers' own, which it draws into log files, too, where nobody would see them move.

    Args:
        pipelines: diffusers' own. What `set_progress_bar_config` set on them is as it was afterwards, and holds.
    """
    hidden = [] if bars_are_seen() else [(p, getattr(p, "_progress_bar_config", {})) for p in pipelines]
    try:
        for pipeline, config in hidden:
            pipeline.set_progress_bar_config(**{"disable": True, **config})
        yield
    finally:
        for pipeline, config in hidden:
            pipeline.set_progress_bar_config(**config)


class NotebookBars:
    """A `Progress` that draws a bar for each task while it is under way. A bar of steps stays when it is full."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        done = event.total is not None and event.completed >= event.total
        if event.task not in self._bars:
            if done:
                return
            self._bars[event.task] = _bar(event)
        bar = self._bars[event.task]
        bar.total = event.total
        bar.update(event.completed - bar.n)
        if done:
            self._bars.pop(event.task).close()

    def close(self) -> None:
        """Takes away the bars of what did not end."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()


def _bar(event: Event) -> Any:
    from tqdm.auto import tqdm

    in_bytes = event.unit == "bytes"
    return tqdm(
        desc=event.task,
        total=event.total,
        unit="B" if in_bytes else "it",
        unit_scale=in_bytes,
        leave=event.unit == "steps",
    )
