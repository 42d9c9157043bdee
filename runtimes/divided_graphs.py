"""Graphs that do not run as a whole: in parts, where memory does not take them, and in stages, for tiles."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from artifacts.errors import UsageError
from artifacts.manifest import GraphRecord, Manifest
from artifacts.units import size
from runtimes.compute import WIDE
from runtimes.devices import Placement
from runtimes.graph_caches import GraphCaches
from runtimes.graph_memory import Division
from runtimes.parts_session import PartsSession, cut, kept, most_of
from runtimes.sessions.onnx_format import format_of
from runtimes.sessions.session_contract import (
    GraphFormat,
    OpensParts,
    ReplacesFile,
    Session,
    SessionFactory,
    Structure,
)
from runtimes.sessions.temporary_weights import TemporaryWeights
from runtimes.staged_run import StagedGraph
from runtimes.stages import staging

MOST_ASKED = 64
"""Parts that a graph is run in where their size was asked for. Each is opened in every call."""


class DividedGraphs:
    """What `runtimes.graphs.Graphs` opens in the place of a whole graph."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        factory: SessionFactory,
        caches: GraphCaches,
        max_part: int | None = None,
    ) -> None:
        """
        Args:
            root: what the manifest's paths are relative to.
            caches: where files are kept that are opened in the place of the artifact's.
            max_part: graphs with more bytes of files run in parts with so many bytes of weights; None for none.
        """
        self._root = root
        self._manifest = manifest
        self._factory = factory
        self._caches = caches
        self._max_part = max_part
        self._stagings: dict[str, StagedGraph | None] = {}
        self._weights: dict[tuple[str, str], TemporaryWeights] = {}

    def session(
        self, record: GraphRecord, device: str, compute: str, division: Division | None
    ) -> Session | None:
        """A session of the graph in parts, where that was asked for or memory takes no more; else None.

        Args:
            division: what memory takes of the graph; None for all of it.

        Raises:
            UsageError: it would be in more than `MOST_ASKED` parts.
        """
        files = (f.size for f in self._manifest.files if f.path.startswith(f"{record.folder}/"))
        oversized = self._max_part is not None and sum(files) > self._max_part
        if division is None and not oversized:
            return None
        divider = dividing(self._factory, self._root / record.model_file)
        if divider is None:
            return None
        factory, form = divider
        model_file = self._file(record, device, compute)
        structure = form.structure(model_file)
        weights = structure.weight_bytes
        most = min(
            weights if division is None else most_of(weights, division.parts),
            weights if self._max_part is None else self._max_part,
        )
        parts = cut(structure, most)
        if len(parts) < 2:
            return None
        if self._max_part is not None and len(parts) > MOST_ASKED:
            raise UsageError(
                f"{record.folder} would run in {len(parts)} parts of {size(self._max_part)}; "
                f"at most {MOST_ASKED} are opened.",
                f"Name a larger part: --max-part {-(-2 * weights // MOST_ASKED)}",
            )

        def opened(part: bytes, narrow: Collection[str]) -> Session:
            return factory.open_part(part, model_file, device, compute, narrow)

        keeps = None
        if division is not None:
            part_weights = tuple(part.weights for part in parts)
            # Parts that the plan did not know get the share of the weights that it reckoned with.
            keeps = (
                division.kept
                if part_weights == division.weights
                else kept(parts, int(weights * division.share))
            )
        return PartsSession(model_file, form, structure, parts, record, opened, device, keeps)

    def _file(self, record: GraphRecord, device: str, compute: str) -> Path:
        """The file that parts are opened of."""
        model_file = self._root / record.model_file
        folder = self._caches.folder(record, compute)
        if folder is None and isinstance(self._factory, ReplacesFile):
            key = record.folder, compute
            if key not in self._weights:
                with suppress(OSError):
                    self._weights[key] = TemporaryWeights()
            folder = self._weights[key].folder if key in self._weights else None
        return opened_file(self._factory, model_file, device, compute, folder)

    def staged(self, record: GraphRecord, placement: Placement) -> StagedGraph | None:
        """The graph in stages; None where nothing of it can be run on tiles."""
        if record.folder not in self._stagings:
            self._stagings[record.folder] = self._stage(record, placement)
        return self._stagings[record.folder]

    def _stage(self, record: GraphRecord, placement: Placement) -> StagedGraph | None:
        divider = dividing(self._factory, self._root / record.model_file)
        device = placement.device(record.folder)
        if divider is None or device is None:
            return None
        factory, form = divider
        compute = placement.compute(record.folder, device)
        model_file = self._file(record, device.name, compute)

        def opened(part: bytes, wide: bool) -> Session:
            kind = WIDE if wide and WIDE in device.computes else compute
            return factory.open_part(part, model_file, device.name, kind)

        plan = staging(form.structure(model_file))
        return None if plan is None else StagedGraph(model_file, form, plan, opened)


def dividing(factory: SessionFactory, model_file: Path) -> tuple[OpensParts, GraphFormat] | None:
    """What opens parts of the factory's files, and their format; None where the factory does not."""
    if not isinstance(factory, OpensParts):
        return None
    form = format_of(factory, model_file)
    return None if form is None else (factory, form)


def opened_structure(
    factory: SessionFactory, form: GraphFormat, model_file: Path, device: str, compute: str
) -> Structure:
    """The structure of the file that is opened in the place of `model_file`; no file is written."""
    if isinstance(factory, ReplacesFile):
        return factory.structure_to_open(model_file, device, compute)
    return form.structure(model_file)


def opened_file(
    factory: SessionFactory, model_file: Path, device: str, compute: str, folder: Path | None
) -> Path:
    """The file to open in the place of `model_file`, where the factory makes one and there is a folder for it."""
    if folder is None or not isinstance(factory, ReplacesFile):
        return model_file
    return factory.file_to_open(model_file, device, compute, folder)
