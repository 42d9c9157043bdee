"""Graphs that are opened while Python still imports what pictures are drawn with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from artifacts.errors import LatentcError
from artifacts.foreseen import foreseen
from runtimes.graphs import Graphs

SHARE = 0.9
"""Of all weights. Graphs that hold so many take nearly all of the time, and pictures are drawn with them; a small one
(an encoder of pictures) may never be called."""


def open_ahead(graphs: Graphs, holds: Callable[[str], bool]) -> None:
    """Opens the largest graphs in a thread (`Graphs.ahead`), one after the other, where all graphs can stay open.

    What does not open is left to who needs it, and is told then.

    Args:
        holds: waits until a graph's files are compared, and tells whether they are what was published.
    """

    def work() -> None:
        with suppress(LatentcError), foreseen():
            for graph in largest({name: graphs.record(name).parameters for name in graphs.names}):
                # An interpreter that ends waits for its threads.
                wanted = threading.main_thread().is_alive() and holds(graph)
                if not wanted or not graphs.open_beside(graph):
                    return

    thread = threading.Thread(target=work, name="opening")
    with suppress(RuntimeError):  # The system has no thread for it: each is opened by who needs it.
        thread.start()
        graphs.ahead = thread


def largest(sizes: dict[str, int]) -> list[str]:
    """The names with the largest sizes, down to `SHARE` of them all."""
    chosen: list[str] = []
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if sum(sizes[other] for other in chosen) >= SHARE * sum(sizes.values()):
            break
        chosen.append(name)
    return chosen
