"""What an open graph takes in memory, measured in the process that checks it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from artifacts.evidence_records import CallMemory, MemoryUse
from artifacts.manifest import TensorSpec
from artifacts.memory import available
from artifacts.resident import Peaks, Resident, Watch, release, resident
from runtimes.sessions.session_contract import Session

if TYPE_CHECKING:
    import numpy as np

SECONDS = 30.0
"""Of the largest call, by what the smallest took; one that would take longer is not made."""

_SAMPLE = 0.002


class MemoryMeter:
    """Opens one graph and calls it, between samples of this process's memory. Off where the system does not tell."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        """
        Args:
            inputs: of the graph, with the names of its dimensions.
        """
        self._specs = {spec.name: spec for spec in inputs}
        release()
        self._before = resident()
        self._opening: Peaks | None = None
        self._opened: Resident | None = None
        self._calls: list[CallMemory] = []

    def open(self, opened: Callable[[], Session]) -> Session:
        """What `opened` returns."""
        with _watched() as peaks:
            session = opened()
        self._opening, self._opened = peaks(), resident()
        return session

    def call(self, session: Session, points: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Makes the calls, the smallest first; a later one that would take too long or too much is left out."""
        if self._before is None or self._opened is None:
            return
        before = None
        for point in sorted(points, key=_elements):
            inputs = {name: point[name] for name in session.inputs}
            if before is not None and not _affordable(_elements(inputs) / max(1, before[0]), *before[1:]):
                return
            start = time.perf_counter()
            try:
                with _watched() as peaks:
                    outputs = session.run(inputs)
            except LatentcError:
                return  # What is measured of it next says so.
            anonymous = max(0, (peaks().anonymous or 0) - self._opened.anonymous)
            sizes = _sizes(self._specs, inputs)
            elements = _elements(inputs) + _elements(outputs)
            self._calls.append(CallMemory(sizes=sizes, elements=elements, anonymous=anonymous))
            before = (_elements(inputs), time.perf_counter() - start, anonymous)

    def use(self) -> MemoryUse | None:
        """What was measured; None where nothing was."""
        if self._before is None or self._opened is None or self._opening is None or not self._calls:
            return None
        return MemoryUse(
            opening=max(0, (self._opening.anonymous or 0) - self._before.anonymous),
            anonymous=max(0, self._opened.anonymous - self._before.anonymous),
            file_backed=max(0, self._opened.file_backed - self._before.file_backed),
            calls=tuple(self._calls),
            process=process_memory(),
        )


@cache
def process_memory() -> int:
    """Bytes of no file that a process holds which draws, before it opens a graph: asked first before there is one."""
    import diffusers
    import transformers  # noqa: F401

    _ = diffusers.StableDiffusionPipeline  # imports what all pipelines share
    held = resident()
    return 0 if held is None else held.anonymous


@contextmanager
def _watched() -> Iterator[Callable[[], Peaks]]:
    watch = Watch(os.getpid(), _SAMPLE)
    with watch:
        yield watch.peaks


def _affordable(times: float, seconds: float, anonymous: int) -> bool:
    """Whether a call that is so many times larger can be made; twice as much is left for what grows with the square."""
    return seconds * times**1.25 <= SECONDS and 2 * anonymous * times <= available()


def _elements(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(int(array.size) for array in arrays.values())


def _sizes(specs: Mapping[str, TensorSpec], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {
        dim: size
        for name, spec in specs.items()
        if name in arrays
        for dim, size in zip(spec.shape, arrays[name].shape, strict=True)
        if isinstance(dim, str)
    }
