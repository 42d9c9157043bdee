"""While objects are made of files that others wrote, nothing is unpickled and no connection is opened."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from artifacts.errors import LatentcError

# Python's audit events -> what is refused.
REFUSED = {
    "pickle.find_class": "read a pickle, which can run any code",
    "socket.connect": "open a network connection",
    "socket.getaddrinfo": "open a network connection",
    "urllib.Request": "open a network connection",
}

_thread = threading.local()
_installing = threading.Lock()
_installed = False


@contextmanager
def guarded(subject: str) -> Iterator[None]:
    """For as long as it is open, this thread gets a LatentcError in place of a pickle's class or a connection.

    Configurations are read as data already (`runtimes.configs`). This holds for what the libraries may do with one
    that nobody has thought of. Other threads are not touched.

    Args:
        subject: what is being made, for the error.
    """
    _install()
    before = getattr(_thread, "making", None)
    _thread.making = subject
    try:
        yield
    finally:
        _thread.making = before


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in REFUSED and (subject := getattr(_thread, "making", None)) is not None:
        raise LatentcError(
            f"{subject} would {REFUSED[event]}; what is loaded is data, and lies in its own folder.",
            "Load models that you trust only.",
        )


def _install() -> None:
    """Python keeps an audit hook until the process ends, so there is one."""
    global _installed
    with _installing:
        if not _installed:
            sys.addaudithook(_hook)
            _installed = True
