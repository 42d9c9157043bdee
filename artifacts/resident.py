"""How much memory a process holds, and held at most: of no file, and of mapped files, apart."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass

from artifacts.memory import high_water

SAMPLE_SECONDS = 0.01


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


@dataclass(frozen=True)
class Resident:
    """What a process holds now, in bytes: of no file, and of mapped files."""

    anonymous: int
    file_backed: int


def resident() -> Resident | None:
    """What this process holds now; None where the system does not tell the kinds apart."""
    import psutil

    info = psutil.Process().memory_info()
    return Resident(info.rss - info.shared, info.shared) if hasattr(info, "shared") else None


def release() -> None:
    """Gives back to the system what this process has freed and its allocator keeps, where that is known how."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # Another C library than GNU's has no such function.
            ctypes.CDLL(None).malloc_trim(0)


_M_MMAP_THRESHOLD = -3  # of GNU's malloc.h
_WEIGHT = 1 << 20


def return_weights_at_once() -> None:
    """From now on what this process frees of the size of a weight goes back to the system, where that is known how.

    GNU's allocator soon keeps blocks of up to 32 MiB in heaps, which shrink only from their ends: a process that
    computes weights one by one would grow by hundreds of MiB.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _WEIGHT)


class Watch:
    """Samples a process's memory from a thread, between `__enter__` and `__exit__`."""

    def __init__(self, pid: int, seconds: float = SAMPLE_SECONDS) -> None:
        """
        Args:
            seconds: between two samples.
        """
        import psutil

        self._process = psutil.Process(pid)
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._anonymous = self._file = self._total = 0
        self._kinds = False

    def _sample(self) -> None:
        while self._look() and not self._stop.wait(self._seconds):
            pass

    def _look(self) -> bool:
        """Takes one sample; False where the process is no more."""
        import psutil

        try:
            info = self._process.memory_info()
        except psutil.Error:
            return False
        self._total = max(self._total, info.rss)
        if hasattr(info, "shared"):  # Linux: resident pages of files and of shared memory.
            self._kinds = True
            self._anonymous = max(self._anonymous, info.rss - info.shared)
            self._file = max(self._file, info.shared)
        return True

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()  # What is still held counts, also where all of it took less than a sample's time.

    def peaks(self) -> Peaks:
        """What was seen up to now; the total is the system's own figure where it keeps one."""
        total = max(self._total, high_water(self._process.pid) or 0)
        if not self._kinds:
            return Peaks(total, None, None)
        return Peaks(total, self._anonymous, self._file)
