"""The graphs of an artifact, each opened once, when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.cache import cache_dir as cache_dir  # beside the sessions that it is for
from artifacts.errors import LatentcError
from artifacts.garbage import count_closed
from artifacts.manifest import Adapter, GraphRecord, Manifest
from artifacts.memory import available
from artifacts.pinned import Pinned
from artifacts.progress import Event, Progress
from artifacts.resident import release
from artifacts.units import size
from runtimes.compute import AUTO, check_requested
from runtimes.devices import Placement, RequestedDevices
from runtimes.divided_graphs import DividedGraphs
from runtimes.graph_caches import GraphCaches
from runtimes.graph_memory import Division, GraphMemory
from runtimes.graph_opening import GraphOpener
from runtimes.memory_plan import MemoryPlan, memory_plan
from runtimes.process_lock import ProcessLock, kept_in_forks
from runtimes.sessions import session_table
from runtimes.sessions.file_constants import Replaced
from runtimes.sessions.session_contract import OpensLater, Refused, Session
from runtimes.tiles import Layout, Scaling, Tiling, fitting, parts

if TYPE_CHECKING:
    import numpy as np

BESIDE = 48 << 20
"""Bytes that a picture takes beside its graphs: tensors between their calls, and code that is first used."""


class Graphs:
    """Sessions by graph folder. Safe to use from several threads; a graph runs one call at a time.

    A fork of the process that made it may close it, and nothing else.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        device: RequestedDevices,
        cache: Path | None,
        progress: Progress,
        compute: str = AUTO,
        files: Pinned | None = None,
        strict: bool = False,
        budget: int | None = None,
        max_part: int | None = None,
    ) -> None:
        """
        Args:
            root: what the manifest's paths are relative to.
            device: one for all graphs, or one for each component (`runtimes.devices.parse_devices`).
            compute: the type that every graph is computed in, or "auto".
            files: the artifact's files, which must still be what was verified whenever one is opened; None for files
                that this process made itself.
            strict: a device that refuses a graph is an error; else the next of the target's takes its place.
            budget: bytes that open graphs may take (`runtimes.memory_plan`); None for no limit.
            max_part: graphs with more bytes of files run in parts with so many bytes of weights; None for none.

        Raises:
            UsageError: there is no such component, device or type, or the device does not have the type.
        """
        check_requested(compute)
        self._files = files
        self._manifest = manifest
        self._progress = progress
        self._records = {g.folder: g for g in manifest.graphs}
        self._factory = session_table.get(manifest.target)
        self._placement = Placement(self._factory, manifest, device, compute, strict, progress)
        self._sessions: dict[str, Session] = {}
        self.adapters: tuple[Adapter, ...] = ()
        self._budget = budget
        caches = GraphCaches(cache, manifest)
        self._divided = DividedGraphs(root, manifest, self._factory, caches, max_part)
        self._opener = GraphOpener(
            root, manifest, self._factory, self._placement, self._divided, caches, files
        )
        self._calls = count()
        self._used: dict[str, int] = {}  # graph -> number of its last call
        self._locks = {g.folder: ProcessLock() for g in manifest.graphs}
        self._closed = False
        kept_in_forks(self)

    @cached_property
    def plan(self) -> MemoryPlan:
        """Which graphs may be open at once."""
        return memory_plan(self._manifest, self._budget, self.computes)

    @cached_property
    def _smallest(self) -> MemoryPlan:
        """The plan for the smallest picture, where there are several."""
        sides = [self._manifest.sizes.get(name) for name in ("width", "height")]
        width, height = (None if side is None else side.min for side in sides)
        picture = None if width is None or height is None else (width, height)
        return memory_plan(self._manifest, None, self.computes, picture)

    def tiling(self, graph: str, arrays: Mapping[str, np.ndarray], requested: Tiling) -> Tiling:
        """How a call is made in tiles: as asked, or so that it fits the memory where that is left to us."""
        if requested.mode != "auto" or self._budget is None:
            return requested
        memory, room = self.plan.graphs[graph], self.plan.room(graph)
        if room is None or not memory.measured:
            return requested
        return fitting(
            self._records[graph], arrays, requested, lambda elements: memory.call(elements) <= room
        )

    def run_in_tiles(
        self,
        graph: str,
        arrays: Mapping[str, np.ndarray],
        scaling: Scaling,
        plan: Layout,
        check: Callable[[], None],
    ) -> dict[str, np.ndarray] | None:
        """One call in stages and tiles, exact but for rounding; None where the graph cannot be divided so.

        Args:
            check: raises where somebody asked to stop.
        """
        with self._held(graph):
            staged = self._divided.staged(self._records[graph], self._placement)
            cells = scaling.cells(arrays)
            if staged is None or cells is None:
                return None
            self._make_room(graph)
            if (session := self._sessions.pop(graph, None)) is not None:
                session.close()  # The whole graph, which is not called.
            if self._files is not None:
                self._files.check(graph)
            rows = replace(plan, rows=1, tops=(0,), lefts=(0,), height=cells[0], width=cells[1])
            record = self._records[graph]
            import numpy as np

            outputs = [
                staged.run(part.arrays, cells, (plan.height, plan.width), check)
                for part in parts(arrays, record, scaling, rows)
            ]
            if self._files is not None:
                self._files.check(graph)
            self._check_open()
            # Behind the graph's own outputs a file may have others.
            wholes = [next(iter(output.values())) for output in outputs]
            return {record.outputs[0].name: np.concatenate(wholes)}

    @property
    def computes(self) -> dict[str, str]:
        """Graph folder -> the type that it is computed in ("bf16"); empty where there is no such device."""
        return self._placement.computes

    @property
    def device(self) -> str:
        """What the graphs run on, by the session's own names ("gpu", "gpu (vae_decoder: cpu)"); empty where the target
        has no device here."""
        return self._placement.text

    @property
    def on_host(self) -> bool:
        """Whether all of them are computed with the host's own processor."""
        return self._placement.on_host

    @property
    def note(self) -> str:
        """What a user is told of what runs; see `runtimes.devices.Placement.note`."""
        return self._placement.note

    def record(self, graph: str) -> GraphRecord:
        """The manifest's record of the graph in folder `graph`.

        Raises:
            LatentcError: there is none.
        """
        if graph not in self._records:
            raise LatentcError(f"the artifact has no graph '{graph}' (it has: {', '.join(self._records)}).")
        return self._records[graph]

    def open(self, graph: str) -> None:
        """Opens the graph unless it is open.

        Raises:
            LatentcError: no such device, the vendor refused the file, or `close` was called, also meanwhile.
        """
        if graph in self._sessions and not self._closed:
            return  # Asked for before each run, which looks at everything once more.
        with self._held(graph):
            self._session(graph)

    @contextmanager
    def _held(self, graph: str) -> Iterator[None]:
        """While it is open, no other thread opens, runs or frees the graph.

        A `close` meanwhile does not wait: the graph is freed here, at the end.
        """
        self.record(graph)
        try:
            with self._locks[graph]:
                self._check_open()
                yield
        finally:
            if self._closed:
                self._free(graph)

    def held_sessions(self) -> tuple[Session, ...]:
        """The sessions that are open."""
        return tuple(self._sessions.values())

    def _check_open(self) -> None:
        if self._closed:
            raise LatentcError("the pipeline is closed.", "Load the artifact again.")

    def _session(self, graph: str, inputs: Mapping[str, np.ndarray] | None = None) -> Session:
        """The graph's session, opened if need be; its lock is held.

        Args:
            inputs: what it is called with; None where that is not known yet.
        """
        self._used[graph] = next(self._calls)
        if graph not in self._sessions:
            self._make_room(graph, inputs)
            self._progress(Event(f"opening {graph}", 0, None))
            self._sessions[graph] = self._opener.open(self._records[graph], self._division)
            self._progress(Event(f"opening {graph}", 1, 1))
        self._check_open()
        return self._sessions[graph]

    def _make_room(self, graph: str, inputs: Mapping[str, np.ndarray] | None = None) -> None:
        """Closes graphs as the plan says before `graph` is opened; one that another thread uses stays open.

        Raises:
            LatentcError: memory has vanished since, and the call does not fit.
        """
        opened = sorted(self._sessions, key=lambda folder: self._used.get(folder, -1))
        closing = self._plan_now().to_close(graph, tuple(opened))
        for folder in closing:
            self._free(folder)
        if closing:
            release()  # Allocators keep what was freed, and the next graph wants it in other pieces.
        memory = self._smallest.graphs[graph]
        if self._budget is not None and memory.measured:
            if inputs is not None:
                memory = memory.for_call(sum(array.size for array in inputs.values()))
            _require(memory, available())

    def check_memory(self) -> None:
        """Raises LatentcError where memory has vanished since, and the artifact's smallest picture does not fit."""
        if self._budget is None:
            return
        free = available() + sum(self.plan.graphs[folder].opened for folder in tuple(self._sessions))
        for memory in self._smallest.graphs.values():
            if memory.measured:
                _require(memory, free)

    def _plan_now(self) -> MemoryPlan:
        """The plan with less where memory has vanished since: what is free, and what open graphs take."""
        if self._budget is None:
            return self.plan
        retained = sum(self.plan.graphs[folder].retained for folder in tuple(self._sessions))
        return replace(self.plan, budget=min(self._budget, available() + retained))

    def _division(self, graph: str) -> Division | None:
        """How the graph runs in parts; None for as a whole."""
        return self._plan_now().division(graph)

    def _free(self, graph: str) -> None:
        """Frees the graph's session, if it has one; where another thread uses it, that thread does."""
        if not self._locks[graph].acquire(blocking=False):
            return
        try:
            session = self._sessions.pop(graph, None)
            if session is not None:
                session.close()
        finally:
            self._locks[graph].release()

    def _run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One run of the open graph, on the next device that takes it where its own refuses."""

        def attempt(session: Session) -> dict[str, np.ndarray]:
            return session.run({name: array for name, array in inputs.items() if name in session.inputs})

        try:
            return attempt(self._session(graph, inputs))
        except Refused as refusal:
            device, *others = self._placement.candidates(graph) or (None,)
            if device is None or not others or not self._placement.may_move(graph, refusal):
                raise
            refusals: dict[str, LatentcError] = {device.name: refusal}
            session, outputs = self._opener.first_taken(
                self._records[graph], others, refusals, attempt, self._division
            )
            self._sessions.pop(graph).close()
            self._sessions[graph] = session
            return outputs

    def open_all(self) -> None:
        """Opens every graph."""
        for graph in self._records:
            self.open(graph)

    def replace(self, constants: Mapping[str, Replaced], adapters: tuple[Adapter, ...]) -> None:
        """Opens graphs anew with other constants than their files hold; those not named have their own again.

        Args:
            constants: by graph folder; of a target whose factory is `TakesConstants`. The arrays are lent.
            adapters: what made them, by name and content.

        Raises:
            LatentcError: a graph cannot be opened with them, or `close` was called. All graphs are as before then.
        """
        before = self._opener.replaced
        changed = [folder for folder in self._records if constants.get(folder) is not before.get(folder)]
        self._opener.replaced = dict(constants)
        try:
            for folder in changed:
                with self._held(folder):
                    session = self._sessions.pop(folder, None)
                    if session is not None:
                        session.close()
                    if session is not None or constants.get(folder):
                        self._session(folder)
            self.adapters = adapters
        except BaseException:
            self._opener.replaced = before
            for folder in changed:
                self._free(folder)
            raise

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph once; `inputs` may hold some that the vendor dropped as nothing depends on them.

        Raises:
            LatentcError: it cannot be opened or run, a file of it was written to since it was verified, or `close` was
                called, also meanwhile.
        """
        with self._held(graph):
            outputs = self._run(graph, inputs)
            session = self._sessions[graph]
            if self._files is not None:
                # A vendor may read weights from the file while it runs. What was replaced as a whole stays as it was
                # for who has it open.
                later = isinstance(session, OpensLater) and session.opens_later
                self._files.check(graph, replaced=not later)
            self._check_open()
            return outputs

    def close(self) -> None:
        """Frees all sessions; twice is harmless.

        It does not wait for calls of other threads: each frees its graph when it ends, which is with an error. In a
        fork nothing is freed: the sessions are the first process's.
        """
        if not self._closed:
            count_closed()
        self._closed = True
        for graph, lock in self._locks.items():
            if not lock.is_foreign:
                self._free(graph)


def _require(memory: GraphMemory, free: int) -> None:
    """Raises LatentcError where the graph, and the picture beside it, need more than is free."""
    needed = memory.smallest + BESIDE
    if needed > free:
        raise LatentcError(
            f"'{memory.graph}' needs {size(needed)} of memory at least, and {size(free)} are free now.",
            "Close other programs, or compile the model with fewer bits: --quantize int8",
        )
