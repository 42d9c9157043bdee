"""The disk below files: space, flushing, removing."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from contextlib import suppress
from pathlib import Path

from artifacts.artifact_paths import entries
from artifacts.error_text import causes

FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""The system's numbers for a disk or a quota that is full."""
# Vendors' C++ writers raise their own types, with the system's words in them.
FULL_WORDS = ("no space left on device", "disk quota exceeded", "not enough space on the disk")


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the disk of `path`, which need not exist yet."""
    return shutil.disk_usage(existing_folder(path)).free


def existing_folder(path: Path) -> Path:
    """The nearest folder that is there: `path`, or above it; the root of a drive that is not."""
    place = Path(os.path.abspath(path))
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place


def tree_bytes(root: Path) -> int:
    """The sizes of all files below `root`, added up; 0 when there is no such folder."""
    return sum(info.st_size for info in entries(root).values()) if root.is_dir() else 0


def is_full(error: BaseException) -> bool:
    """Whether `error`, or one that it was raised from, says that a disk or a quota is full."""
    for link in causes(error):
        if isinstance(link, OSError) and link.errno in FULL:
            return True
        if isinstance(link, Exception) and any(words in str(link).lower() for words in FULL_WORDS):
            return True
    return False


def sync_file(path: Path) -> None:
    """Flushes a file's data to the disk."""
    # Windows flushes only through a handle that may write.
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0) if os.name == "nt" else os.O_RDONLY
    _sync(path, flags)


def sync_folder(path: Path) -> None:
    """Flushes a folder's list of names to the disk; Windows has no such call and needs none."""
    if os.name != "nt":
        _sync(path, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and user-space file systems know no fsync, of folders above all.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


def sync_folders(root: Path) -> None:
    """Flushes `root` and every folder below it, the deepest first."""
    for folder, _, _ in os.walk(root, topdown=False):
        sync_folder(Path(folder))


def write_synced(path: Path, data: bytes) -> None:
    """Writes a small file so that, after whatever stop, it is the old one or the new one, whole."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def write_cached(path: Path, data: bytes) -> None:
    """Writes a file of a cache, whole or not at all, beside other processes and threads that write it too.

    What cannot be written costs time, not function: that is no error.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Removes a folder with all that is in it, read-only files too; nothing there is no error.

    Raises:
        OSError: something in it is in use or may not be removed.
    """
    if not os.path.lexists(path):
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        for folder, names, files in os.walk(path):
            os.chmod(folder, stat.S_IRWXU)
            for name in (*names, *files):
                inside = os.path.join(folder, name)
                if not os.path.islink(inside):
                    os.chmod(inside, stat.S_IRWXU)
        shutil.rmtree(path)
