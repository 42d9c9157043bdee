"""Watching the process of a campaign's trials from outside: its time and its memory."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from artifacts.units import size
from artifacts.worker import Worker
from bench.project.campaign_kinds import Kind

_STOP_AT = 2
"""Times the memory of a trial at which the process is ended, before the machine has none left."""
_LOOK_EVERY = 0.5
"""Seconds."""


@dataclass(frozen=True)
class Fault:
    """What a watcher has against a trial."""

    text: str
    is_late: bool


class Watcher:
    """Watches a process from a thread; ends it when a trial takes too long or too much memory.

    Time that the process waits for a processor, which others have, is not counted, where the system tells of it. The
    waits of all threads are added: a trial of several threads may have taken longer than is said.

    Attributes:
        has_killed: whether it ended the process, also where that had its answer out before.
    """

    def __init__(self, worker: Worker, traces: Path) -> None:
        """
        Args:
            traces: the file that the process writes its stacks to when it is asked to.
        """
        self._worker, self._traces = worker, traces
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._since: float | None = None
        self._waited = self._waited_before = 0.0
        self._fault: Fault | None = None
        self.has_killed = False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def begin(self, kind: Kind) -> None:
        """A trial begins."""
        with self._lock:
            self._since, self._kind, self._fault = time.monotonic(), kind, None
            self._waited = self._waited_before = -1.0

    def end(self) -> tuple[float, Fault | None]:
        """The trial has ended; returns how many seconds it took and what was wrong with that."""
        with self._lock:
            if self._since is None:
                return 0.0, None
            seconds, self._since = self._taken(), None
            if self._fault is None and seconds > self._kind.seconds:
                self._fault = Fault(f"took {seconds:.1f} seconds", is_late=True)
            return seconds, self._fault

    def kill(self) -> None:
        """Ends the process."""
        self.has_killed = True
        self._worker.kill()

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._thread.join()

    def _taken(self) -> float:
        """Seconds of the trial, without those that the process waited for a processor."""
        assert self._since is not None
        return time.monotonic() - self._since - (self._waited - self._waited_before)

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_EVERY):
            with self._lock:
                if self._since is None or self._fault is not None:
                    continue
                self._waited = _waited(self._worker.pid)
                if self._waited_before < 0:
                    self._waited_before = self._waited
                memory = _resident(self._worker.pid)
                if self._taken() > self._kind.seconds:
                    text = f"took more than {self._kind.seconds:g} seconds{self._calls()}"
                    self._fault = Fault(text, is_late=True)
                elif memory > _STOP_AT * self._kind.memory:
                    self._fault = Fault(f"the process held {size(memory)}{self._calls()}", is_late=False)
                if self._fault is not None:
                    self.kill()

    def _calls(self) -> str:
        """Where the process is: its innermost calls."""
        if not hasattr(signal, "SIGUSR1"):
            return ""
        with contextlib.suppress(OSError):
            os.kill(self._worker.pid, signal.SIGUSR1)
            time.sleep(_LOOK_EVERY)
            lines = self._traces.read_text(encoding="utf-8").splitlines()
            first = next((at for at, line in enumerate(lines) if line.startswith("Current thread")), -1)
            calls = [line.strip() for line in lines[first + 1 : first + 7]]
            return f", in {' < '.join(calls)}" if calls else ""
        return ""


def _waited(pid: int) -> float:
    """Seconds that the threads of a process have waited for a processor, together; 0 where nobody tells."""
    nanoseconds = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # A thread that has ended.
            nanoseconds += int(file.read_text(encoding="ascii").split()[1])
    return nanoseconds / 1e9


def _resident(pid: int) -> int:
    """Bytes that the process holds now."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
