"""A verified artifact under another name, complete or not there at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from artifacts.errors import LatentcError
from artifacts.manifest import FileRecord, Manifest
from artifacts.progress import Progress, silent
from artifacts.reading import open_regular
from artifacts.verify import Artifact
from artifacts.workspace import Workspace


def copy_artifact(
    artifact: Artifact, out: Path | str, force: bool = False, progress: Progress = silent
) -> Path:
    """Copies an artifact's files, and no other, to `out`, which appears by one rename.

    Every file is hashed as it lies in the copy, and compared with the manifest.

    Args:
        force: replace an artifact that is at `out`.
        progress: told of files being hashed, in bytes.

    Returns:
        `out`, absolute.

    Raises:
        UsageError: `out` exists, or is something that is never replaced.
        LatentcError: a file is not the one that was verified, or the disk is full; `out` does not appear.
    """
    manifest = artifact.manifest

    def copy(folder: Path) -> None:
        for file in manifest.files:
            destination = folder / file.path
            destination.parent.mkdir(parents=True, exist_ok=True)
            source = artifact.root / file.path
            try:
                stream = open_regular(source, os.lstat(source))
            except OSError:
                raise _changed(artifact.root, file.path) from None
            with stream, destination.open("wb") as copied:
                shutil.copyfileobj(stream, copied, 1 << 20)

    def checked(records: tuple[FileRecord, ...]) -> Manifest:
        listed = {file.path: file for file in manifest.files}
        for record in records:
            if record != listed[record.path]:
                raise _changed(artifact.root, record.path)
        return manifest

    with Workspace(out, force, progress) as workspace:
        return workspace.publish({}, checked, copy)


def _changed(root: Path, name: str) -> LatentcError:
    return LatentcError(
        f"{root} is not what was verified: {name} is missing or has changed.",
        f"See everything with: latentc verify {root} (or compile the model again).",
    )
