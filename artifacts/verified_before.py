"""Files that were found whole before, so that gigabytes are not read again at each start."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from artifacts import strict_json
from artifacts.disk import write_cached
from artifacts.errors import LatentcError

SETTLED_NS = 2_000_000_000
"""What has changed within this time is not remembered: another change could leave the same times behind."""


class VerifiedBefore:
    """The SHA-256 of an artifact's files as they were compared last, by what the system tells of each file.

    A file counts as the same while its device, number, size and times of change are, as version control systems have
    it. The list is the user's own, in a cache folder: it says nothing of files that come from elsewhere, since those
    have other numbers and times.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        """
        Args:
            folder: where such lists are kept; need not be there.
            root: of the artifact, absolute.
        """
        self._file = folder / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"
        self._known: dict[str, list[str]] = {}
        self._changed = False
        with suppress(OSError, LatentcError):
            record = strict_json.loads(self._file.read_bytes(), str(self._file))
            if isinstance(record, dict):
                self._known = record

    def knows(self, path: str, info: os.stat_result, sha256: str) -> bool:
        """Whether the file had this SHA-256 when it was compared last, and has not changed since.

        Args:
            path: in the artifact.
            info: of `os.lstat`.
        """
        return self._known.get(path) == [state(info), sha256]

    def add(self, path: str, info: os.stat_result, sha256: str) -> None:
        """Notes that the file has this SHA-256. `info` was taken before it was read."""
        if max(info.st_mtime_ns, info.st_ctime_ns) < time.time_ns() - SETTLED_NS:
            self._known[path] = [state(info), sha256]
            self._changed = True

    def save(self) -> None:
        """Keeps what was noted; a folder that cannot be written costs time, not function."""
        if not self._changed:
            return
        write_cached(self._file, json.dumps(self._known).encode())


def numbers(info: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written to, or another takes its name: first the two of its `identity`."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def state(info: os.stat_result) -> str:
    """`numbers` as a text."""
    return " ".join(map(str, numbers(info)))


def numbers_of(state: str) -> tuple[int, ...]:
    """The `numbers` in a `state`."""
    return tuple(map(int, state.split(" ")))


def identity(info: os.stat_result) -> str:
    """What a file keeps while it exists: the numbers of its device and its own."""
    return f"{info.st_dev} {info.st_ino}"
