"""IP-Adapters in a module: further attention, to a picture, whose strengths stay numbers that may be set.

diffusers' own loaders put them in, into whatever modules it has a loader for. They look at the shapes of a file's
tensors alone, so that a shell is built from shapes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from artifacts.errors import LatentcError, UsageError
from runtimes import settings

if TYPE_CHECKING:
    import torch

    State = Mapping[str, Mapping[str, torch.Tensor]]
    """A file's tensors as diffusers' loaders take them: "image_proj" and "ip_adapter" -> name -> tensor."""

STRENGTHS = "ip_adapter_scale"
"""The input of a graph that has a row for each attention with an IP-Adapter, and a column for each adapter."""

LOADER = "_load_ip_adapter_weights"
"""The method of diffusers' modules that puts IP-Adapters in."""

IMAGE = "ip_adapter_image"
"""What diffusers' pipelines call the pictures that IP-Adapters look at, one for each."""

_PICTURES = (IMAGE, "ip_adapter_image_embeds")

_ATTRIBUTE = "scale"

_COMPILE_ONE = "Compile one in: --ip-adapter FILE"

_COUNTS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def put(module: torch.nn.Module, states: Sequence[State]) -> list[tuple[torch.nn.Module, dict[str, Any]]]:
    """Puts IP-Adapters into `module`, their parameters on the meta device.

    Returns:
        The new submodules, each with the tensors of `states` that its parameters are, by their names in it.

    Raises:
        LatentcError: diffusers loads no, or not so many, IP-Adapters into such a module.
    """
    name = type(module).__name__
    load: Any = getattr(module, LOADER, None)
    if load is None:
        raise LatentcError(f"diffusers loads no IP-Adapter into {name}.")
    several = "state_dicts" in inspect.signature(load).parameters
    if not several and len(states) != 1:
        raise LatentcError(f"diffusers loads one IP-Adapter into {name}; {len(states)} are asked for.")
    parts: list[tuple[torch.nn.Module, dict[str, Any]]] = []

    def keep(part: torch.nn.Module, state: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        parts.append((part, dict(state)))

    with _replaced(sys.modules[load.__func__.__module__], "load_model_dict_into_meta", keep):
        load([_dicts(state) for state in states] if several else _dicts(states[0]))
    settings.declare(module, STRENGTHS, _ATTRIBUTE, [part for part, _ in parts if _ATTRIBUTE in vars(part)])
    _COUNTS[module] = len(states)
    return parts


def put_shapes(module: torch.nn.Module, shapes: Sequence[Mapping[str, Mapping[str, Sequence[int]]]]) -> None:
    """`put` with tensors of these shapes, which have no memory."""
    import torch

    put(
        module,
        [
            {
                group: {name: torch.empty(tuple(shape), device="meta") for name, shape in tensors.items()}
                for group, tensors in adapter.items()
            }
            for adapter in shapes
        ],
    )


def count(pipe: Any) -> int:
    """How many IP-Adapters the modules of a pipeline have."""
    import torch

    modules = [p for p in getattr(pipe, "components", {}).values() if isinstance(p, torch.nn.Module)]
    return max((_COUNTS.get(module, 0) for module in modules), default=0)


def require_for(pipe: Any, passed: Mapping[str, Any]) -> None:
    """Raises UsageError where a call passes pictures for IP-Adapters to a pipeline that has none."""
    if any(passed.get(name) is not None for name in _PICTURES) and not count(pipe):
        raise UsageError("the artifact has no IP-Adapter.", _COMPILE_ONE)


def set_strengths(pipe: Any, scales: Sequence[Any]) -> None:
    """Sets how much a pipeline's IP-Adapters take over.

    Args:
        scales: one for all adapters, or one for each, in what diffusers' `set_ip_adapter_scale` takes.

    Raises:
        UsageError: the pipeline has no IP-Adapter, or not so many.
    """
    method = getattr(pipe, "set_ip_adapter_scale", None)
    adapters = count(pipe)
    if method is None or not adapters:
        raise UsageError("the artifact has no IP-Adapter.", _COMPILE_ONE)
    if len(scales) not in (1, adapters):
        raise UsageError(
            f"{len(scales)} strengths are given for {adapters} IP-Adapters.", "Give one for each."
        )
    several = list(scales) * (adapters // len(scales))
    method(several[0] if adapters == 1 else several)


def _dicts(state: State) -> dict[str, dict[str, torch.Tensor]]:
    return {group: dict(tensors) for group, tensors in state.items()}


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
