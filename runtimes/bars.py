"""Diffusers' progress bars as progress events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from artifacts.progress import Event, Progress
from runtimes.meter import Meter


class Bars:
    """Diffusers' progress bars as progress events: the one thing that all of its denoising loops share.

    `batch` is the number of the pipeline's call that is under way, from 1; whoever makes the calls sets it.
    """

    def __init__(self, meter: Meter, progress: Progress, runs: int) -> None:
        self._meter = meter
        self._progress = progress
        self._runs = runs
        self.batch = 1

    def bar(
        self,
        iterable: Iterable[Any] | None = None,
        total: int | None = None,
        desc: str | None = None,
        leave: bool = True,
        **options: Any,
    ) -> Bar:
        """Stands for `DiffusionPipeline.progress_bar`, which some pipelines extend by more of tqdm's options.

        Args:
            desc: what the loop does; "denoising" where the pipeline does not say.
            leave, options: how a tqdm is drawn, which is not ours to do.
        """
        task = (desc or "").rstrip(" .:") or "denoising"
        if self._runs > 1:
            task = f"{task}, batch {self.batch} of {self._runs}"
        return Bar(self._meter, self._progress, task, iterable, total)


class Bar(tqdm):
    """A tqdm that tells its progress and draws nothing."""

    monitor_interval = 0  # No thread that watches over what is drawn.

    def __init__(
        self,
        meter: Meter,
        progress: Progress,
        task: str,
        iterable: Iterable[Any] | None = None,
        total: int | None = None,
    ) -> None:
        super().__init__(iterable, total=total, disable=True)
        self._meter = meter
        self._progress = progress
        self._task = task
        meter.begin_steps()
        self._counted = len(meter.steps)
        self.refresh()

    def update(self, n: float | None = 1) -> None:
        """Tells that `n` more items are done."""
        self._meter.check()
        # A step of this loop within which another loop told its steps is no step of the denoiser.
        if len(self._meter.steps) == self._counted:
            self._meter.end_step()
        self._counted = len(self._meter.steps)
        self.n += n or 0
        self.refresh()
        if self.total is not None and self.n >= self.total:
            self._meter.end_steps()

    def refresh(self, *_: Any, **__: Any) -> None:
        """Tells where the loop is."""
        self._progress(Event(self._task, self.n, self.total, "steps"))

    def __iter__(self) -> Iterator[Any]:
        # Not by truth: a tensor has none.
        for item in () if self.iterable is None else self.iterable:
            yield item
            self.update()
        self._meter.end_steps()

    def close(self) -> None:
        """The loop is over; twice is harmless."""
        self._meter.end_steps()
        super().close()
