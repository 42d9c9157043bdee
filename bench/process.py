"""Asks a process that draws (`bench.drawing_worker`), and watches how much memory it takes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts import worker
from artifacts.errors import LatentcError, UsageError
from artifacts.memory import high_water

SAMPLE_SECONDS = 0.01


class WorkerBug(RuntimeError):
    """An error of a worker that is not a `LatentcError`; holds its traceback."""


@dataclass(frozen=True)
class Peaks:
    """The most memory that a process held, in bytes.

    Attributes:
        total: resident, of any kind.
        anonymous: resident and of no file: weights that were read, converted or cast, activations. None where
            the system does not tell the kinds apart.
        file_backed: resident pages of mapped files (weights that were mapped, libraries), which the system can
            drop and read again; None as above. Its peak need not be at the same time.
    """

    total: int
    anonymous: int | None
    file_backed: int | None


class Worker(worker.Worker):
    """A process that draws."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """
        Args:
            name: for messages.
            command: its requests are those of `bench.drawing_worker.reply`.
            env: all variables of the process; None for ours.
        """
        super().__init__(command, env, patience=10.0)
        self.name = name

    def request(self, **request: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer.

        Raises:
            LatentcError: as the worker raised it; or the worker has ended.
            WorkerBug: the worker raised anything else.
        """
        try:
            answer: dict[str, Any] = self.ask(request)
        except worker.WorkerError as error:
            if error.trace:
                raise WorkerBug(f"{self.name}: {error.trace}") from error
            kind = UsageError if error.exit_code == UsageError.exit_code else LatentcError
            raise kind(f"{self.name}: {error.message}", error.hint) from error
        return answer


class Watch:
    """Samples a process's memory from a thread, between `__enter__` and `__exit__`."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._anonymous = self._file = self._total = 0
        self._kinds = False

    def _sample(self) -> None:
        import psutil

        while True:
            try:
                info = self._process.memory_info()
            except psutil.Error:
                return
            self._total = max(self._total, info.rss)
            if hasattr(info, "shared"):  # Linux: resident pages of files and of shared memory.
                self._kinds = True
                self._anonymous = max(self._anonymous, info.rss - info.shared)
                self._file = max(self._file, info.shared)
            if self._stop.wait(SAMPLE_SECONDS):
                return

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def peaks(self) -> Peaks:
        """What was seen up to now; the total is the system's own figure where it keeps one."""
        total = max(self._total, high_water(self._process.pid) or 0)
        if not self._kinds:
            return Peaks(total, None, None)
        return Peaks(total, self._anonymous, self._file)


def forget(files: Iterable[Path]) -> bool:
    """Drops `files` from the system's page cache, so that the next read is from disk.

    Returns:
        Whether this system can; a page that another process has mapped stays all the same.
    """
    if sys.platform == "win32" or not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True
