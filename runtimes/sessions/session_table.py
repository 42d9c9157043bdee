"""The one visible table of sessions. Third parties add theirs through the entry points `latentc.sessions`."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import cast

from artifacts.errors import LatentcError
from runtimes.sessions.session_contract import SessionFactory

ENTRY_POINTS = "latentc.sessions"

SESSIONS: dict[str, str] = {
    "onnxruntime": "runtimes.sessions.onnxruntime:SESSION",
    "openvino": "runtimes.sessions.openvino:SESSION",
    "directml": "runtimes.sessions.directml:SESSION",
    "tensorrt": "runtimes.sessions.tensorrt:SESSION",
}


def names() -> tuple[str, ...]:
    """The targets whose artifacts can be opened, ours first; imports none of their sessions."""
    return (*SESSIONS, *(e.name for e in metadata.entry_points(group=ENTRY_POINTS) if e.name not in SESSIONS))


def get(target: str) -> SessionFactory:
    """What opens the graphs of `target`.

    Raises:
        LatentcError: nothing here does.
    """
    path = SESSIONS.get(target) or next(
        (e.value for e in metadata.entry_points(group=ENTRY_POINTS) if e.name == target), None
    )
    if path is None:
        raise LatentcError(
            f"nothing here runs artifacts of target '{target}' (there is what runs: {', '.join(names())}).",
            "Install the package that compiled it, or compile again: latentc compile MODEL OUT --target "
            + names()[0],
        )
    module, _, attribute = path.partition(":")
    return cast(SessionFactory, getattr(importlib.import_module(module), attribute))
