"""The one visible table of targets. Third parties add theirs through the entry points `latentc.targets`."""

from __future__ import annotations

from typing import cast

from artifacts.errors import UsageError
from artifacts.registry import Registry
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
_REGISTRY = Registry(TARGETS, ENTRY_POINTS)


def names() -> tuple[str, ...]:
    """All targets by name, ours first; imports none of them."""
    return _REGISTRY.names()


def get(name: str) -> Target:
    """The target called `name`.

    Raises:
        UsageError: there is none.
    """
    loaded = _REGISTRY.load(name)
    if loaded is None:
        raise UsageError(
            f"there is no target '{name}' (there are: {', '.join(names())}).", "See: latentc targets"
        )
    return cast(Target, loaded)
