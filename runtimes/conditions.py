"""What a pipeline's call needs beside its prompt, by its signature: pictures to follow (of ControlNets, T2I-Adapters
and IP-Adapters), a picture to start from, and arguments that are none of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from artifacts.manifest import DimRange
from runtimes import ip_adapters
from runtimes.generate_options import SYNONYMS, control_argument, parameters, synonym
from runtimes.ip_adapters import IMAGE
from runtimes.requested_sizes import frame_count
from runtimes.trusted_classes import is_list

FOR_EACH_PROMPT = "adapter_conditioning_scale"
"""Pipelines with this argument want a picture for each prompt of each of several models (T2I-Adapters)."""


@dataclass(frozen=True)
class Needs:
    """What a call is given beside a prompt, sizes and steps.

    Attributes:
        image, mask: whether it takes a picture to start from, and one of what is to be drawn anew.
        controls: how many pictures its ControlNets or T2I-Adapters follow; all of them are needed.
        ip_adapters: how many pictures its IP-Adapters look at; all of them are needed.
        other: why pictures, texts and numbers are not enough for it; empty where they are.
    """

    image: bool
    mask: bool
    controls: int
    ip_adapters: int
    other: str

    def lack(self, controls: int, ip_adapters: int) -> tuple[str, str] | None:
        """What is wrong with a call that brings so many pictures to follow: a sentence, and the name of what is; None
        where nothing is."""
        if self.other:
            return f"the pipeline {self.other}", ""
        kinds = (
            ("control_image", self.controls, controls, "ControlNet or T2I-Adapter"),
            (IMAGE, self.ip_adapters, ip_adapters, "IP-Adapter"),
        )
        for name, wanted, brought, model in kinds:
            if brought and not wanted:
                return f"the model has no {model} for '{name}'", name
            if wanted != brought:
                pictures = "1 picture" if wanted == 1 else f"{wanted} pictures, one for each"
                return (
                    f"the model needs '{name}' for its {model}: {pictures}; found {brought or 'none'}",
                    name,
                )
        return None


def needs(pipe: Any, sizes: Mapping[str, DimRange]) -> Needs:
    """What the call of a pipeline needs.

    Args:
        sizes: of its artifact.
    """
    known = parameters(pipe)
    control, adapters = control_argument(known), ip_adapters.count(pipe)
    image = synonym("image", known)
    return Needs(
        image=image is not None and image != control,
        mask=synonym("mask", known) is not None,
        controls=0 if control is None else listed_models(pipe) or 1,
        ip_adapters=adapters,
        other=_other(known, sizes, {control, ip_adapters.IMAGE if adapters else None}, adapters),
    )


def condition_arguments(
    pipe: Any, controls: Sequence[Any], images: Sequence[Any], prompts: int
) -> dict[str, Any]:
    """Pictures to follow, by the pipeline's own names for them.

    Args:
        controls: one for each ControlNet or T2I-Adapter.
        images: one for each IP-Adapter.
        prompts: how many texts the call is given.
    """
    known = parameters(pipe)
    arguments: dict[str, Any] = {}
    if controls:
        several = FOR_EACH_PROMPT in known and prompts > 1
        pictures = [[picture] * prompts for picture in controls] if several else list(controls)
        arguments[control_argument(known) or "control_image"] = (
            pictures if listed_models(pipe) else pictures[0]
        )
    if images:
        arguments[ip_adapters.IMAGE] = list(images)
    return arguments


def listed_models(pipe: Any) -> int:
    """How many models a component holds that is a list of them; 0 where there is none."""
    import torch

    for component in getattr(pipe, "components", {}).values():
        if isinstance(component, torch.nn.Module) and is_list(type(component)):
            return max(len(m) for m in component.children() if isinstance(m, torch.nn.ModuleList))
    return 0


def _other(
    known: Mapping[str, Any], sizes: Mapping[str, DimRange], pictures: set[str | None], adapters: int
) -> str:
    ours = {name for option, names in SYNONYMS.items() for name in names if option != "frames"} | pictures
    if missing := [name for name, p in known.items() if p.default is p.empty and name not in ours]:
        return f"needs '{missing[0]}', which no request can give"
    if adapters and ip_adapters.IMAGE not in known:
        return f"has an IP-Adapter and takes no '{ip_adapters.IMAGE}'"
    counter = synonym("frames", known)
    frames = None if counter is None else frame_count(None, sizes, known) or known[counter].default
    if isinstance(frames, int) and frames > 1:
        return f"makes videos of {frames} frames, and single pictures are all that is served"
    return ""
