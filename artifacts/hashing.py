"""SHA-256 of files as they are streamed, and one stable key for options."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from artifacts.manifest import FileRecord
from artifacts.progress import Event, Progress, silent

CHUNK = 1 << 22
"""Bytes read at a time."""

REPORTED = 64 << 20
"""Bytes from which a file's progress is reported; smaller files are over before a person could read it."""


_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 as it is written here, in 64 lowercase hexadecimal digits."""
    return _SHA256.fullmatch(text) is not None


def digest(stream: BinaryIO, expected: int, advance: Callable[[int], None] | None = None) -> tuple[str, int]:
    """The SHA-256 (lowercase hex) and the number of bytes from here to the end of `stream`.

    Args:
        stream: opened for reading bytes.
        expected: bytes that it has; another number is found all the same.
        advance: told the number of bytes of each chunk, after it was read.
    """
    sha, size = hashlib.sha256(), 0
    now, later = (memoryview(bytearray(min(CHUNK, expected + 1))) for _ in range(2))
    read = cast(RawIOBase, stream).readinto
    # A chunk is hashed while the next is read: from a disk both take about as long.
    with ThreadPoolExecutor(1, "reading") as reader:
        count = read(now)
        while count:
            upcoming = reader.submit(read, later) if size + count < expected else None
            sha.update(now[:count])
            size += count
            if advance is not None:
                advance(count)
            count = read(later) if upcoming is None else upcoming.result()
            now, later = later, now
    return sha.hexdigest(), size


def record_path(root: Path, path: Path) -> str:
    """A file's path in records: relative to `root`, or whole where it is not in it."""
    return (path.relative_to(root) if path.is_relative_to(root) else path.absolute()).as_posix()


def file_record(root: Path, path: Path, progress: Progress = silent) -> FileRecord:
    """The record of one file: its path relative to `root`, its SHA-256 and its size, in one streaming read.

    Args:
        root: the folder that the record's path starts from.
        path: the file.
        progress: told of big files (`REPORTED`), in bytes.

    Raises:
        OSError: the file cannot be read.
    """
    name = record_path(root, path)
    total = path.stat().st_size
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(Event(f"hashing {name}", done, total, "bytes"))

    with path.open("rb", buffering=0) as stream:
        sha256, size = digest(stream, total, advance if total >= REPORTED else None)
    return FileRecord(path=name, sha256=sha256, size=size)


class BackgroundHashes:
    """Hashes files one after the other in a thread, while the caller does something else.

    A context manager; leaving it gives up what is not hashed yet. It holds two chunks.
    """

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        """
        Args:
            root: the folder that the records' paths start from.
            files: hashed in this order.
        """
        self._stop = threading.Event()
        self._events: dict[Path, Event] = {}
        self._pool = ThreadPoolExecutor(1, "hashing")
        self._records = {file: self._pool.submit(self._hash, root, file) for file in dict.fromkeys(files)}

    def record(self, file: Path, progress: Progress = silent) -> FileRecord:
        """The file's record; waits for it.

        Raises:
            KeyError: it is none of the files.
            OSError: it cannot be read.
        """
        while True:
            try:
                return self._records[file].result(timeout=0.2)
            except FutureTimeoutError:
                if file in self._events:
                    progress(self._events[file])

    def _hash(self, root: Path, file: Path) -> FileRecord:
        def keep(event: Event) -> None:
            if self._stop.is_set():
                raise InterruptedError("nobody waits for this hash any more")
            self._events[file] = event

        return file_record(root, file, keep)

    def __enter__(self) -> BackgroundHashes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)


def content_key(obj: Any) -> str:
    """SHA-256 (lowercase hex) of a JSON-able value: equal values give equal keys, however dicts are ordered.

    Raises:
        TypeError: the value holds something that is not JSON.
        ValueError: it holds NaN, an infinity or itself.
    """
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
