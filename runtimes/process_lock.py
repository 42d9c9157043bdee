"""What a fork of the process that made a pipeline must not do: take its locks, and free its sessions.

Either would wait for ever for threads that a fork does not have.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from artifacts.errors import LatentcError


class SessionHolder(Protocol):
    """Who holds vendors' sessions."""

    def held_sessions(self) -> Iterable[Any]:
        """Those that are open."""


_holders: weakref.WeakSet[Any] = weakref.WeakSet()


def kept_in_forks(holder: SessionHolder) -> None:
    """In a fork, the sessions of `holder` are never freed, also not when the interpreter ends.

    A vendor's destructor ends its threads and waits for them. `holder` itself is not kept.
    """
    _holders.add(holder)


def _keep() -> None:
    for holder in list(_holders):
        for session in list(holder.held_sessions()):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)


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
