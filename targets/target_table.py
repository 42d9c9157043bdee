"""The one visible table of targets. Third parties add theirs through the entry points `latentc.targets`."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import cast

from artifacts.errors import UsageError
from targets.target_contract import Target

ENTRY_POINTS = "latentc.targets"

STAND_IN = "onnxruntime"
"""The target whose session runs graphs on the CPU where they must be measured whatever they are compiled for."""

TARGETS: dict[str, str] = {
    "onnxruntime": "targets.onnxruntime.target:TARGET",
    "openvino": "targets.openvino.target:TARGET",
    "directml": "targets.directml.target:TARGET",
    "tensorrt": "targets.tensorrt.target:TARGET",
}


def names() -> tuple[str, ...]:
    """All targets by name, ours first; imports none of them."""
    return (*TARGETS, *(e.name for e in metadata.entry_points(group=ENTRY_POINTS) if e.name not in TARGETS))


def get(name: str) -> Target:
    """The target called `name`.

    Raises:
        UsageError: there is none.
    """
    path = TARGETS.get(name) or next(
        (e.value for e in metadata.entry_points(group=ENTRY_POINTS) if e.name == name), None
    )
    if path is None:
        raise UsageError(
            f"there is no target '{name}' (there are: {', '.join(names())}).", "See: latentc targets"
        )
    module, _, attribute = path.partition(":")
    return cast(Target, getattr(importlib.import_module(module), attribute))
