"""The graphs that a model is exported to, watched: `graph_snapshot`, `graph_check`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.argument_types import typed
from artifacts.progress import Progress, silent
from latentc.api import keywords
from latentc.api.keywords import Batch, File, Size

if TYPE_CHECKING:
    from compiler.snapshot.diff import Change
    from compiler.snapshot.prints import Snapshot

SUFFIX = ".graph"


@dataclass(frozen=True)
class GraphCheck:
    """What changed from a golden snapshot to a model as it is exported here and now.

    Attributes:
        golden: the file.
        changes: most important first, without those that were allowed.
        allowed: the others.
        updated: whether the file was written again.
    """

    golden: Path
    changes: tuple[Change, ...]
    allowed: tuple[Change, ...]
    updated: bool

    @property
    def ok(self) -> bool:
        """Whether nothing changed but what was allowed, or what changed was accepted."""
        return self.updated or not self.changes


@typed
def graph_snapshot(
    model: File,
    out: File | None = None,
    *,
    targets: str | Sequence[str] | None = None,
    components: str | Sequence[str] | None = None,
    task: str | Sequence[str] | None = None,
    size: Size | None = None,
    batch: Batch | None = None,
    arguments: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Snapshot:
    """The fingerprint of every graph of a model, as `latentc graph snapshot` writes it. Reads no weight.

    Args:
        model: a diffusers folder, a hub id or a built-in name; a folder with configs alone will do.
        out: the file to write; None for none.
        targets: whose forms of the graphs to take; None for every target's.
        components: only these; None for all.
        task, size, batch, arguments: as of `compile`.

    Raises:
        LatentcError: the model cannot be captured or exported, or the file cannot be written.
    """
    from compiler.snapshot import take
    from compiler.snapshot.golden_snapshot import write

    options = take.SnapshotOptions(
        targets=keywords.names(targets),
        tasks=keywords.names(task) or (),
        size=keywords.size_range(size),
        batch=keywords.batch_range(batch),
        arguments=keywords.json_texts(arguments or {}) or {},
        components=keywords.names(components) or (),
    )
    with keywords.reporting(progress) as reported:
        taken = take.take(os.fspath(model), options, reported)
    if out is not None:
        write(Path(out), taken)
    return taken


@typed
def graph_check(
    model: File,
    golden: File,
    *,
    update: bool = False,
    allow: str | Sequence[str] = (),
    progress: Progress = silent,
) -> GraphCheck:
    """Holds a model's graphs to a golden snapshot, as `latentc graph check` does. Reads no weight.

    Args:
        golden: the snapshot's file; in a folder, the one with the model's own name.
        update: accept what changed: write it to the file.
        allow: classes of change that are no failure: "names", "order", "metadata".

    Raises:
        UsageError: a class that cannot be allowed.
        LatentcError: the file cannot be read, or the model cannot be captured or exported.
    """
    from compiler.snapshot.diff import allowed
    from compiler.snapshot.golden_snapshot import check

    classes = keywords.names(allow) or ()
    allowed((), classes)  # A wrong class is told before the work.
    file = Path(golden)
    if file.is_dir():
        file = file / f"{Path(model).name}{SUFFIX}"
    with keywords.reporting(progress) as reported:
        changes = check(os.fspath(model), file, update=update, progress=reported)
    left = allowed(changes, classes)
    others = tuple(change for change in changes if change not in left)
    return GraphCheck(file, left, others, updated=update and bool(changes))
