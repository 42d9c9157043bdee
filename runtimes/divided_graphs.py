"""Graphs that do not run as a whole: in parts, where memory does not take them, and in stages, for tiles."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from artifacts.manifest import GraphRecord, Manifest
from runtimes.compute import WIDE
from runtimes.devices import Placement
from runtimes.memory_plan import Division
from runtimes.parts_session import PartsSession, cut
from runtimes.sessions.onnx_format import format_of
from runtimes.sessions.session_contract import GraphFormat, Session, SessionFactory
from runtimes.staged_run import StagedGraph
from runtimes.stages import staging


class DividedGraphs:
    """What `runtimes.graphs.Graphs` opens in the place of a whole graph."""

    def __init__(
        self, root: Path, manifest: Manifest, factory: SessionFactory, max_part: int | None = None
    ) -> None:
        """
        Args:
            root: what the manifest's paths are relative to.
            max_part: graphs with more bytes of files run in parts with so many bytes of weights; None for none.
        """
        self._root = root
        self._manifest = manifest
        self._factory = factory
        self._max_part = max_part
        self._stagings: dict[str, StagedGraph | None] = {}

    def session(
        self, record: GraphRecord, device: str, compute: str, division: Division | None
    ) -> Session | None:
        """A session of the graph in parts, where that was asked for or memory takes no more; else None.

        Args:
            division: what memory takes of the graph; None for all of it.
        """
        files = (f.size for f in self._manifest.files if f.path.startswith(f"{record.folder}/"))
        asked = self._max_part is not None and sum(files) > self._max_part
        if division is None and not asked:
            return None
        model_file = self._root / record.model_file
        form = dividing(self._factory, model_file)
        if form is None:
            return None
        structure = form.structure(model_file)
        weights = structure.weight_bytes
        most = min(
            weights if division is None else -(-weights // division.parts),
            weights if self._max_part is None else self._max_part,
        )
        parts = cut(structure, most)
        if len(parts) < 2:
            return None

        def opened(part: bytes, narrow: Collection[str]) -> Session:
            return self._open_part(part, model_file, device, compute, narrow)

        stay_open = None if division is None else int(weights * division.kept)
        return PartsSession(model_file, form, structure, parts, record, opened, device, stay_open)

    def _open_part(
        self, part: bytes, model_file: Path, device: str, compute: str, narrow: Collection[str] = ()
    ) -> Session:
        factory: Any = self._factory
        return factory.open_part(part, model_file, device, compute, narrow)  # type: ignore[no-any-return]

    def staged(self, record: GraphRecord, placement: Placement) -> StagedGraph | None:
        """The graph in stages; None where nothing of it can be run on tiles."""
        if record.folder not in self._stagings:
            self._stagings[record.folder] = self._stage(record, placement)
        return self._stagings[record.folder]

    def _stage(self, record: GraphRecord, placement: Placement) -> StagedGraph | None:
        model_file = self._root / record.model_file
        form = dividing(self._factory, model_file)
        device = placement.device(record.folder)
        if form is None or device is None:
            return None
        compute = placement.compute(record.folder, device)

        def opened(part: bytes, wide: bool) -> Session:
            kind = WIDE if wide and WIDE in device.computes else compute
            return self._open_part(part, model_file, device.name, kind)

        plan = staging(form.structure(model_file))
        return None if plan is None else StagedGraph(model_file, form, plan, opened)


def dividing(factory: SessionFactory, model_file: Path) -> GraphFormat | None:
    """The format of the factory's files, if the factory opens parts of them."""
    return format_of(factory, model_file) if hasattr(factory, "open_part") else None
