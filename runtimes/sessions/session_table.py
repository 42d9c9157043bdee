"""The one visible table of sessions. Third parties add theirs through the entry points `latentc.sessions`."""

from __future__ import annotations

from typing import cast

from artifacts.errors import LatentcError
from artifacts.registry import Registry
from runtimes.sessions.session_contract import SessionFactory

ENTRY_POINTS = "latentc.sessions"

SESSIONS: dict[str, str] = {
    "onnxruntime": "runtimes.sessions.onnxruntime:SESSION",
    "openvino": "runtimes.sessions.openvino:SESSION",
    "directml": "runtimes.sessions.directml:SESSION",
    "tensorrt": "runtimes.sessions.tensorrt:SESSION",
}
_REGISTRY = Registry(SESSIONS, ENTRY_POINTS)


def names() -> tuple[str, ...]:
    """The targets whose artifacts can be opened, ours first; imports none of their sessions."""
    return _REGISTRY.names()


def get(target: str) -> SessionFactory:
    """What opens the graphs of `target`.

    Raises:
        LatentcError: nothing here does.
    """
    loaded = _REGISTRY.load(target)
    if loaded is None:
        raise LatentcError(
            f"nothing here runs artifacts of target '{target}' (there is what runs: {', '.join(names())}).",
            "Install the package that compiled it, or compile again: latentc compile MODEL OUT --target "
            + names()[0],
        )
    return cast(SessionFactory, loaded)
