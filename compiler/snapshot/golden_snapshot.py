"""A model against its golden snapshot; snapshots in files."""

from __future__ import annotations

from pathlib import Path

from artifacts import named_files
from artifacts.command_words import quoted
from artifacts.errors import LatentcError
from artifacts.progress import Progress, silent
from artifacts.publish import require_outside
from compiler.snapshot.diff import Change, diff
from compiler.snapshot.prints import Snapshot, parse


def read(file: Path) -> Snapshot:
    """The snapshot in `file`.

    Raises:
        LatentcError: it cannot be read, or is none.
    """
    try:
        text = named_files.read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise LatentcError(
            f"{file} cannot be read: {error}", f"Write it: latentc graph snapshot MODEL -o {quoted(file)}"
        ) from error
    return parse(text, file.name)


def write(file: Path, snapshot: Snapshot) -> None:
    """Writes the canonical text, with the same line ends everywhere.

    Raises:
        UsageError: it lies in an artifact.
        LatentcError: it cannot be written.
    """
    require_outside(file)
    try:
        file.write_text(snapshot.text(), encoding="utf-8", newline="\n")
    except OSError as error:
        raise LatentcError(f"{file} cannot be written: {error}") from error


def check(
    model: str, golden: Path, *, update: bool = False, progress: Progress = silent
) -> tuple[Change, ...]:
    """What changed from `golden` to the model as it is exported here and now, most important first.

    Args:
        update: write the new snapshot to `golden` when anything changed.

    Raises:
        LatentcError: the golden file cannot be read, or the model cannot be captured or exported.
    """
    from compiler.snapshot.take import SnapshotOptions, take

    before = read(golden)
    after = take(model, SnapshotOptions.parse(before.options), progress)
    changes = diff(before, after)
    if update and changes:
        write(golden, after)
    return changes
