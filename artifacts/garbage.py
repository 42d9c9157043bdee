"""How often Python looks for cycles among its objects."""

from __future__ import annotations

import gc
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


@contextmanager
def rare_collections() -> Iterator[None]:
    """While it is open: in a user's process, for the time that libraries are imported."""
    before = gc.get_threshold()
    collect_rarely()
    try:
        yield
    finally:
        gc.set_threshold(*before)
