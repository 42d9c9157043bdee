"""What a pipeline wants to be called before its own call, where that fails without it.

Such a call leaves something behind (an inverted picture, a switch in a component) that the pipeline's own call starts
from; a dry run, and an artifact, begin with that call.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SWITCH = "enable_"


def call_before(cls: type, components: Mapping[str, Any], error: Exception) -> str:
    """What has to be called first ("invert", "vae.enable_tiling"), if a pipeline's call failed for want of it.

    That is a method that sets what the call reads and that the error names, itself or what it sets; or a component's
    switch for what the error names.

    Args:
        cls: the pipeline's class.
        components: by their names.
    """
    named = set(re.findall(r"\w+", str(error)))
    read = set(_attributes(cls.__call__, "LOAD_ATTR"))
    for name, method in _methods(cls):
        written = read & set(_attributes(method, "STORE_ATTR"))
        if written and named & {name, *written}:
            return name
    for component, module in components.items():
        for name in dir(type(module)):
            if name.startswith(_SWITCH) and name.removeprefix(_SWITCH) in named:
                return f"{component}.{name}"
    return ""


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods of a pipeline's class that not every pipeline has."""
    from diffusers import DiffusionPipeline

    for name in dir(cls):
        method = inspect.getattr_static(cls, name)
        if not name.startswith("_") and inspect.isfunction(method) and not hasattr(DiffusionPipeline, name):
            yield name, method


def _attributes(function: Any, operation: str) -> Iterator[str]:
    """Names of the attributes that a function reads (LOAD_ATTR) or writes (STORE_ATTR)."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is not None:
        yield from (step.argval for step in dis.get_instructions(code) if step.opname == operation)
