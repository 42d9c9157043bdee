"""An artifact becomes images: one session for each vendor, plugged into diffusers' own pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from artifacts import telemetry

if TYPE_CHECKING:
    from runtimes.pipeline import Pipeline, load
    from runtimes.result import Result

__all__ = ["Pipeline", "Result", "load"]


telemetry.off()  # before any module of this package imports a vendor's


def __getattr__(name: str) -> Any:
    # Imported when first asked for: `import runtimes.sessions.session_contract` must stay cheap.
    if name not in __all__:
        raise AttributeError(f"module 'runtimes' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("runtimes.result" if name == "Result" else "runtimes.pipeline"), name)
