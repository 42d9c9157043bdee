"""How often Python looks for cycles among its objects."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 20_000
"""Objects that are made between two looks at the youngest. Python's own number is 700; importing PyTorch and diffusers
makes half a million objects that stay, and a quarter of that import is then spent on looking at them."""


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
