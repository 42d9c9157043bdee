"""Diffusers' progress bars as progress events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from artifacts.progress import Event, Progress
from runtimes.meter import Meter


class Bars:
    """Diffusers' progress bars as progress events: the one thing that all of its denoising loops share."""

    def __init__(self, meter: Meter, progress: Progress, runs: int) -> None:
        self._meter = meter
        self._progress = progress
        self._runs = runs
        self._run = 0

    def bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Bar:
        """Stands for `DiffusionPipeline.progress_bar`."""
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        self._run += 1
        task = (
            "denoising"
            if self._runs == 1
            else f"denoising, batch {min(self._run, self._runs)} of {self._runs}"
        )
        return Bar(self._meter, self._progress, task, iterable, total)


class Bar:
    """Looks like a tqdm to a pipeline."""

    def __init__(
        self, meter: Meter, progress: Progress, task: str, iterable: Iterable[Any] | None, total: int | None
    ) -> None:
        self._meter = meter
        self._progress = progress
        self._task = task
        self._iterable = iterable
        self._done = 0
        self.total = total
        meter.begin_steps()
        progress(Event(task, 0, total, "steps"))

    def update(self, n: int = 1) -> None:
        self._meter.check()
        self._meter.end_step()
        self._done += n
        self._progress(Event(self._task, self._done, self.total, "steps"))

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable or ():
            yield item
            self.update()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def close(self) -> None:
        pass

    def set_postfix(self, *args: Any, **kwargs: Any) -> None:
        pass

    def set_description(self, *args: Any, **kwargs: Any) -> None:
        pass
