"""Asks a process that draws (`bench.drawing_worker`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts import worker
from artifacts.errors import LatentcError, UsageError


class WorkerBug(RuntimeError):
    """An error of a worker that is not a `LatentcError`; holds its traceback."""


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
