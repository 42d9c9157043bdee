"""How a graph is opened: its files as they were verified, on its device or the next that takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from artifacts.errors import LatentcError
from artifacts.manifest import GraphRecord, Manifest
from artifacts.pinned import Pinned
from artifacts.processors import processors
from runtimes.devices import Placement
from runtimes.divided_graphs import DividedGraphs
from runtimes.graph_caches import GraphCaches
from runtimes.graph_memory import Division
from runtimes.sessions.common import preferred_threads
from runtimes.sessions.exact_sizes import sized
from runtimes.sessions.file_constants import Replaced, TakesConstants
from runtimes.sessions.session_contract import Device, Refused, Session, SessionFactory

T = TypeVar("T")

Divisions = Callable[[str], Division | None]
"""Graph folder -> how it runs in parts; None for as a whole."""

OPENINGS = 3
"""How often a graph is opened anew because a folder was renamed meanwhile."""


class GraphOpener:
    """Opens sessions of an artifact's graphs; who asks holds the graph's lock, and keeps and closes the session.

    Attributes:
        replaced: by graph folder, constants that a graph is opened with in the place of its file's. They are lent.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        factory: SessionFactory,
        placement: Placement,
        divided: DividedGraphs,
        caches: GraphCaches,
        files: Pinned | None,
    ) -> None:
        """
        Args:
            root: what the manifest's paths are relative to.
            caches: where vendors keep what they compile.
            files: the artifact's files, which must still be what was verified; None for files that this process made.
        """
        self._root = root
        self._manifest = manifest
        self._factory = factory
        self._placement = placement
        self._divided = divided
        self._caches = caches
        self._files = files
        self._threads = _threads(manifest)
        self.replaced: Mapping[str, Replaced] = {}

    def open(self, record: GraphRecord, divisions: Divisions) -> Session:
        """A session of the files that were verified.

        Raises:
            LatentcError: a file has changed since, or the vendor refused one.
        """
        if self._files is None:
            return self._open(record, divisions)
        for _ in range(OPENINGS):
            places = self._files.folders(record.folder)
            self._files.check(record.folder)
            try:
                session = self._open(record, divisions)
            except LatentcError:
                # A file that is gone is told as that, not as a vendor puts it.
                self._files.check(record.folder)
                raise
            try:
                self._files.check(record.folder)
            except LatentcError:
                session.close()
                raise
            # A folder that was renamed and renamed back may have been another one while the vendor read from it.
            if places == self._files.folders(record.folder):
                return session
            session.close()
        raise LatentcError(
            f"{self._root} was renamed each time {record.folder} was opened.", "Load it again."
        )

    def _open(self, record: GraphRecord, divisions: Divisions) -> Session:
        """A session on the graph's device, or on the next that takes it.

        Raises:
            Refused: no device takes it; the first one's words.
        """
        devices = self._placement.candidates(record.folder)
        if not devices:  # The target's package is missing, which its session says.
            return self._open_on(
                record, self._placement.requested(record.folder), record.precision, divisions
            )
        session, _ = self.first_taken(record, devices, {}, lambda session: None, divisions)
        return session

    def first_taken(
        self,
        record: GraphRecord,
        devices: Sequence[Device],
        refusals: dict[str, LatentcError],
        attempt: Callable[[Session], T],
        divisions: Divisions,
    ) -> tuple[Session, T]:
        """The session on the first of the devices that opens the graph and makes the attempt, and what that returns.

        Args:
            refusals: device -> error, of those that refused the graph before.

        Raises:
            Refused: none does; the first of the refusals.
        """
        graph = record.folder
        for device in devices:
            session = None
            try:
                session = self._open_on(
                    record, device.name, self._placement.compute(graph, device), divisions
                )
                result = attempt(session)
            except Refused as refusal:
                if session is not None:
                    session.close()
                refusals[device.name] = refusal
                if not self._placement.may_move(graph, refusal):
                    break
                continue
            except BaseException:
                if session is not None:
                    session.close()
                raise
            if refusals:
                self._placement.move(graph, device, refusals)
            return session, result
        raise next(iter(refusals.values()))

    def _open_on(self, record: GraphRecord, device: str, compute: str, divisions: Divisions) -> Session:
        factory = sized(self._factory, record.inputs, record.dims)
        if constants := self.replaced.get(record.folder):
            assert isinstance(factory, TakesConstants)
            return factory.open_with(self._root / record.model_file, device, compute, constants, record.built)
        in_parts = self._divided.session(record, device, compute, divisions(record.folder))
        if in_parts is not None:
            return in_parts
        cache = self._caches.folder(record, compute)
        with preferred_threads(self._threads):
            return factory.open(self._root / record.model_file, device, compute, cache, record.built)


def _threads(manifest: Manifest) -> int | None:
    """The number that was chosen for speed, on a machine with as many cores; None where none was."""
    chosen = manifest.speed
    return None if chosen is None or chosen.cores != processors() else chosen.threads
