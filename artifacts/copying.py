"""A verified artifact under another name, complete or not there at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from artifacts.command_words import quoted
from artifacts.disk import write_synced
from artifacts.errors import LatentcError
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME, FileRecord, Manifest
from artifacts.manifest_reading import open_regular
from artifacts.progress import Progress, silent
from artifacts.verification import Artifact
from artifacts.workspace import Workspace


def copy_artifact(
    artifact: Artifact, out: Path | str, force: bool = False, progress: Progress = silent
) -> Path:
    """Copies an artifact's files, and no other, to `out`, which appears by one rename.

    Every file is hashed as it lies in the copy, and compared with the manifest. A signature goes along where the copy's
    manifest has the same bytes, so that it holds there, too.

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
        copied = workspace.publish({}, checked, copy)
    _copy_signature(artifact.root, copied)
    return copied


def _copy_signature(root: Path, copied: Path) -> None:
    try:
        if (root / MANIFEST_NAME).read_bytes() != (copied / MANIFEST_NAME).read_bytes():
            return
        info = os.lstat(root / SIGNATURE_NAME)
        with open_regular(root / SIGNATURE_NAME, info) as stream:
            write_synced(copied / SIGNATURE_NAME, stream.read())
    except FileNotFoundError:
        return
    except OSError as error:
        raise LatentcError(
            f"{copied} is copied, and the signature {root / SIGNATURE_NAME} is not: {error.strerror or error}."
        ) from error


def _changed(root: Path, name: str) -> LatentcError:
    return LatentcError(
        f"{root} is not what was verified: {name} is missing or has changed.",
        f"See everything with: latentc verify {quoted(root)} (or compile the model again).",
    )
