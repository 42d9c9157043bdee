"""latentc compiles any diffusers pipeline for the device it will run on, and proves that the result is right.

The public API is `compile`, `load` and their errors; all else is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifacts.errors import LatentcError, UsageError
    from compiler.build import CompileRequest, compile
    from runtimes import load

__all__ = ["CompileRequest", "LatentcError", "UsageError", "__version__", "compile", "load"]

# Name -> where it is. A plain table instead of imports: `import latentc` must cost nothing.
_EXPORTS = {
    "compile": "compiler.build:compile",
    "CompileRequest": "compiler.build:CompileRequest",
    "LatentcError": "artifacts.errors:LatentcError",
    "UsageError": "artifacts.errors:UsageError",
    "load": "runtimes:load",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("latentc")
    elif name in _EXPORTS:
        from importlib import import_module

        module, _, attribute = _EXPORTS[name].partition(":")
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module 'latentc' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
