"""How often Python looks for cycles among its objects."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from artifacts.resident import release

ALLOCATIONS = 20_000
"""Objects that are made between two looks at the youngest. Python's own number is 700; importing PyTorch and diffusers
makes half a million objects that stay, and a quarter of that import is then spent on looking at them."""


CLOSED = 4
"""Pipelines that are closed between two looks for them. Each is a cycle of 25,000 objects, and Python itself looks for
those when a quarter of all objects are new: after six pipelines, or many more where libraries made millions."""

_closed = 0


def count_closed() -> None:
    """A pipeline has been closed."""
    global _closed
    _closed += 1


def collect_closed() -> None:
    """Gives back the memory of pipelines that were closed, where there are `CLOSED`: before another is loaded."""
    global _closed
    if _closed >= CLOSED:
        _closed = 0
        release()


def collect_rarely() -> None:
    """For processes of ours, from here on. A number that is higher, or 0 (never), stays."""
    first, *others = gc.get_threshold()
    if 0 < first < ALLOCATIONS:
        gc.set_threshold(ALLOCATIONS, *others)


_lock = threading.Lock()
_before: list[tuple[int, int, int]] = []
"""The thresholds to come back to, once for each `rare_collections` that is open in any thread."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """While it is open: in a user's process, for the time that libraries are imported. The last to end of those that
    are open in several threads brings the user's own number back."""
    with _lock:
        _before.append(_before[0] if _before else gc.get_threshold())
        collect_rarely()
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:
                gc.set_threshold(*before)
