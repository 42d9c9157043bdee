"""What an open graph takes in memory, measured in the process that checks it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from artifacts.evidence_records import MOST_PARTS, CallMemory, MemoryUse
from artifacts.manifest import GraphSpec, TensorSpec
from artifacts.memory import available
from artifacts.resident import Peaks, Resident, Watch, release, resident
from runtimes.divided_graphs import dividing, opened_file, opened_structure
from runtimes.graph_memory import DIVISIONS
from runtimes.parts_session import PartsSession, cut, most_of, weights_of_cuts
from runtimes.sessions.common import give_back
from runtimes.sessions.session_contract import GraphFormat, OpensParts, Session, SessionFactory
from runtimes.sessions.temporary_weights import TemporaryWeights

if TYPE_CHECKING:
    import numpy as np

SECONDS = 30.0
"""Of the largest call, by what the smallest took; one that would take longer is not made."""

WHOLE_OPENING = 12
"""Bytes that opening a whole graph may take for each of its files: four bits widened to fp32, and packed in bf16."""

WHOLE_OF_PARTS = 1.5
"""Bytes of a whole graph, which was not measured, for each that its parts take, each of which gives back what it
computed in: FLUX.1-dev's transformer in int4 takes 12,196 MiB, and 8,128 in parts."""

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
        """Makes the calls, the smallest first; a later one that would take too long or too much is left out.

        The smallest is made once more before: runtimes pack weights in the first call, which is of opening. What that
        computes in stays, as it does where pictures are drawn: OpenVINO 2026.4.1 on a CPU writes beyond its memory in
        the next call of some graphs (rotary embeddings) whose memory was given back.
        """
        if self._before is None or self._opened is None or not points:
            return
        ordered = sorted(points, key=_elements)
        before = None
        for number, point in enumerate((ordered[0], *ordered)):
            inputs = {name: point[name] for name in session.inputs}
            if before is not None and not _affordable(_elements(inputs) / max(1, before[0]), *before[1:]):
                return
            start = time.perf_counter()
            try:
                with _watched() as peaks:
                    outputs = session.run(inputs)
            except LatentcError:
                return  # What is measured of it next says so.
            seconds = time.perf_counter() - start
            if number == 0:
                release()
                self._opening, self._opened = _larger(self._opening, peaks()), resident()
                continue
            if self._opened is None:
                return
            anonymous = max(0, (peaks().anonymous or 0) - self._opened.anonymous)
            sizes = _sizes(self._specs, inputs)
            elements = _elements(inputs) + _elements(outputs)
            self._calls.append(CallMemory(sizes=sizes, elements=elements, anonymous=anonymous))
            before = (_elements(inputs), seconds, anonymous)

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


class PartsMeter:
    """Measures a graph in parts, opened one at a time, where memory does not take the whole of it.

    What stays of the parts is added up; of what opening and calls take beyond that, the largest counts. The whole,
    which does not open here, is taken to need `WHOLE_OF_PARTS` as much.
    """

    def __init__(
        self, factory: SessionFactory, graph: GraphSpec, root: Path, device: str, compute: str
    ) -> None:
        """
        Args:
            graph: with its file relative to `root`.
        """
        self._factory, self._graph = factory, graph
        self._file, self._device, self._compute = root / graph.model_file, device, compute
        self._beyond = self._opened = self._mapped = self._call = 0

    def use(self, points: Sequence[Mapping[str, np.ndarray]]) -> MemoryUse | None:
        """What was measured in the calls, the smallest first; None where the factory opens no parts.

        Raises:
            LatentcError: a part cannot be opened or run.
        """
        divider = dividing(self._factory, self._file)
        if divider is None or resident() is None:
            return None
        weights = TemporaryWeights()
        try:
            self._file = opened_file(self._factory, self._file, self._device, self._compute, weights.folder)
            return self._use(*divider, points)
        finally:
            weights.remove()

    def _use(
        self, factory: OpensParts, form: GraphFormat, points: Sequence[Mapping[str, np.ndarray]]
    ) -> MemoryUse | None:
        structure = form.structure(self._file)
        parts = cut(structure, most_of(structure.weight_bytes, DIVISIONS[-1]))
        opened = partial(self._open, factory)
        session = PartsSession(
            self._file, form, structure, parts, self._graph, opened, self._device, keeps=()
        )
        calls: list[CallMemory] = []
        before, seconds = 1, 0.0
        specs = {spec.name: spec for spec in self._graph.inputs}
        for point in sorted(points, key=_elements):
            inputs = {name: point[name] for name in session.inputs}
            if calls and not _affordable(_elements(inputs) / max(1, before), seconds, calls[-1].anonymous):
                break
            self._beyond = self._opened = self._mapped = self._call = 0
            start = time.perf_counter()
            outputs = session.run(inputs)
            before, seconds = _elements(inputs), time.perf_counter() - start
            elements = before + _elements(outputs)
            calls.append(CallMemory(sizes=_sizes(specs, inputs), elements=elements, anonymous=self._call))
        session.close()
        if not calls:
            return None
        return MemoryUse(
            opening=max(self._opened + self._beyond, round(self._opened * WHOLE_OF_PARTS)),
            anonymous=self._opened,
            file_backed=self._mapped,
            calls=tuple(calls),
            process=process_memory(),
            cuts=_told(weights_of_cuts(structure)),
        )

    def _open(self, factory: OpensParts, part: bytes, narrow: Collection[str]) -> Session:
        release()
        before = resident()
        with _watched() as peaks:
            session = factory.open_part(part, self._file, self._device, self._compute, narrow)
        assert before is not None
        return _MeasuredPart(session, partial(self._called, before, peaks().anonymous or 0))

    def _called(self, before: Resident, opening: int, call: int, after: Resident) -> None:
        """Counts a part: what was held before it was opened, at most meanwhile, in its call, and after that."""
        self._beyond = max(self._beyond, max(opening, call) - after.anonymous)
        self._opened += max(0, after.anonymous - before.anonymous)
        self._mapped += max(0, after.file_backed - before.file_backed)
        self._call = max(self._call, call - after.anonymous)


class _MeasuredPart:
    """A part of a graph whose one call is measured."""

    def __init__(self, session: Session, called: Callable[[int, Resident], None]) -> None:
        self._session, self._called = session, called
        self.inputs, self.outputs, self.device = session.inputs, session.outputs, session.device
        self.close = session.close

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with _watched() as peaks:
            outputs = self._session.run(inputs)
        give_back(self._session)
        release()
        after = resident()
        assert after is not None
        self._called(peaks().anonymous or 0, after)
        return outputs


def with_cuts(
    use: MemoryUse | None, factory: SessionFactory, model_file: Path, device: str, compute: str
) -> MemoryUse | None:
    """What a graph takes, and the parts that it is cut into where it runs in parts."""
    divider = dividing(factory, model_file)
    if use is None or divider is None:
        return use
    _, form = divider
    structure = opened_structure(factory, form, model_file, device, compute)
    return use.model_copy(update={"cuts": _told(weights_of_cuts(structure))})


def _told(cuts: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """The cuts, if a manifest takes as many parts."""
    return cuts if all(0 < len(weights) <= MOST_PARTS for weights in cuts) else ()


@cache
def process_memory() -> int:
    """Bytes of no file that a process holds which draws, before it opens a graph: asked first before there is one."""
    import diffusers
    import transformers  # noqa: F401

    _ = diffusers.StableDiffusionPipeline  # imports what all pipelines share
    usage = resident()
    return 0 if usage is None else usage.anonymous


@contextmanager
def _watched() -> Iterator[Callable[[], Peaks]]:
    watch = Watch(os.getpid(), _SAMPLE)
    with watch:
        yield watch.peaks


def _larger(first: Peaks | None, second: Peaks) -> Peaks:
    return second if first is None or (second.anonymous or 0) > (first.anonymous or 0) else first


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
