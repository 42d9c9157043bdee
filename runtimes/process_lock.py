"""A lock that belongs to the process that made it: a fork of that process is told so, where it would wait for ever."""

from __future__ import annotations

import os
import threading

from artifacts.errors import LatentcError


class ProcessLock:
    """One thread at a time.

    A fork copies a lock as it is, perhaps held by a thread that the child does not have, and none of the threads that
    vendors' sessions compute with.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def is_foreign(self) -> bool:
        """Whether this process is a fork of the one that made the lock."""
        return os.getpid() != self._process

    def acquire(self, blocking: bool = True) -> bool:
        """Takes the lock; without `blocking`, only if it is free.

        Raises:
            LatentcError: this process is a fork of the one that made it.
        """
        if self.is_foreign:
            raise LatentcError(
                f"the pipeline was loaded in process {self._process}, and this is a fork of it, which has none of the "
                "threads that it computes with.",
                "Load the pipeline in each process, or start processes by multiprocessing's 'spawn'.",
            )
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Gives the lock back."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()
