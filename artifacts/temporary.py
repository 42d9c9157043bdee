"""One temporary folder for a command, in which everything that it and its libraries write for a while lies.

It goes when the command ends. What a command that was killed left is removed by the next one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from artifacts.errors import LatentcError

PREFIX = "latentc-run-"
LOCK = ".lock"

_VARIABLE = "TMPDIR"
"""What Python looks at first, in processes that are started, too."""

_YOUNG = 60.0
"""Seconds: a folder that is younger may be of a command that has not locked it yet."""


def locked_folder(within: Path | None = None) -> tuple[Path, FileLock]:
    """A new folder, and the lock by which it is known to be in use until its owner ends.

    What processes left that were killed is removed on the way.

    Args:
        within: where it is made, with a name that systems hide; None for where temporary files are.

    Raises:
        OSError: that cannot be written.
    """
    prefix = PREFIX if within is None else f".{PREFIX}"
    base = Path(tempfile.gettempdir()) if within is None else within
    remove_leftovers(base, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    lock = FileLock(folder / LOCK, thread_local=False)
    with suppress(OSError, Timeout):
        lock.acquire(blocking=False)
    return folder, lock


def remove(folder: Path, lock: FileLock) -> None:
    """Removes a folder of `locked_folder`: what cannot be removed, as Windows keeps mapped files, is a leftover."""
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_folder() -> Iterator[None]:
    """While it is open, `tempfile` writes into a folder of this process, and so does that of processes it starts.

    Where there is no temporary folder that can be written, all stays as it is: who needs one says so.
    """
    try:
        folder, lock = locked_folder()
    except OSError:
        yield
        return
    before, variable = tempfile.tempdir, os.environ.get(_VARIABLE)
    try:
        tempfile.tempdir = os.environ[_VARIABLE] = str(folder)
        yield
    finally:
        tempfile.tempdir = before
        if variable is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = variable
        remove(folder, lock)


@contextmanager
def private_folder(within: Path | None = None) -> Iterator[Path]:
    """A folder for files of a while. It goes at the end, or with the next one there where the process was killed.

    Args:
        within: as of `locked_folder`: for files that are too large for where temporary ones are, or to be linked to.

    Raises:
        LatentcError: it cannot be written.
    """
    try:
        folder, lock = locked_folder(within)
    except OSError as error:
        if within is not None:
            raise LatentcError(f"{within} cannot be written: {error.strerror or error}.") from error
        raise LatentcError(
            f"no temporary folder can be written: {error.strerror or error}.", "Set TMPDIR to one that can."
        ) from error
    try:
        yield folder
    finally:
        remove(folder, lock)


def remove_leftovers(base: Path, prefix: str = PREFIX) -> None:
    """Removes the folders of processes that have ended; those of others, and what cannot be removed, stay."""
    user = os.getuid() if hasattr(os, "getuid") else None
    for folder in base.glob(f"{prefix}*"):
        with suppress(OSError, Timeout):
            info = folder.lstat()
            if (user is not None and info.st_uid != user) or time.time() - info.st_mtime < _YOUNG:
                continue
            if folder.is_symlink() or not folder.is_dir():
                continue
            with FileLock(folder / LOCK, thread_local=False).acquire(blocking=False):
                shutil.rmtree(folder, ignore_errors=True)


def no_room(place: str, error: OSError) -> LatentcError:
    """The message for a temporary file that could not be written."""
    return LatentcError(
        f"a temporary file cannot be written at {place}: {error.strerror or error}.",
        "Make room there, or set TMPDIR (on Windows TEMP) to another folder.",
    )
