"""What a fork of the process that made a pipeline must not do: take its locks, and free its sessions.

Either would wait for ever for threads that a fork does not have.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from artifacts.errors import LatentcError, UsageError


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
    """One thread at a time, which knows that it has the lock already: its callbacks would wait for themselves.

    A fork copies a lock as it is, perhaps held by a thread that the child does not have, and none of the threads that
    vendors' sessions compute with.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._owner: int | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether this process is a fork of the one that made the lock."""
        return os.getpid() != self._process

    def acquire(self, blocking: bool = True) -> bool:
        """Takes the lock; without `blocking`, only if it is free.

        Raises:
            LatentcError: this process is a fork of the one that made it.
            UsageError: this thread has it already, and would wait for itself.
        """
        if self.is_foreign:
            raise LatentcError(
                f"the pipeline was loaded in process {self._process}, and this is a fork of it, which has none of the "
                "threads that it computes with.",
                "Load the pipeline in each process, or start processes by multiprocessing's 'spawn'.",
            )
        if blocking and self._owner == threading.get_ident():
            raise UsageError(
                "the pipeline is in the middle of a call, and what that call calls (a callback, a function that is "
                "told of progress) can neither draw with it nor change its weights.",
                "Do it after the call, or with another pipeline: pipe.with_task(TASK), latentc.load(ARTIFACT).",
            )
        taken = self._lock.acquire(blocking)
        if taken:
            self._owner = threading.get_ident()
        return taken

    def release(self) -> None:
        """Gives the lock back."""
        self._owner = None
        self._lock.release()

    @contextmanager
    def joined(self) -> Iterator[None]:
        """As the lock itself, also for a thread that has it already: it has no other thread beside it.

        Raises:
            LatentcError: this process is a fork of the one that made the lock.
        """
        if self._owner == threading.get_ident() and not self.is_foreign:
            yield
            return
        with self:
            yield

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()
