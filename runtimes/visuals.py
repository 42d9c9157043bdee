"""Which arguments of a pipeline's call are pictures, masks and videos: by their names and annotations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from runtimes.generate_options import synonym

Kind = Literal["picture", "mask", "video", "masks"]

# Words in the names of arguments that hold several pictures in their order.
_MOVING = ("video", "frames", "poses")


def kind(name: str, parameters: Mapping[str, inspect.Parameter]) -> Kind | None:
    """What a pipeline's argument `name` holds, if it is visual and PIL images are taken for it.

    Args:
        parameters: of the pipeline's call.
    """
    if "latents" in name or "embed" in name:
        return None
    if not _takes_pictures(parameters[name]):
        # Some pipelines say tensor of what they give to a processor of pictures.
        tensor = "Tensor" in str(parameters[name].annotation) and name.endswith("_image")
        return "picture" if tensor else None
    if "mask" in name:
        clip = any(_moves(other, parameters) for other in parameters if other != name)
        return "masks" if clip or any(word in name for word in _MOVING) else "mask"
    if _moves(name, parameters):
        return "video"
    return "picture" if "image" in name else None


def visuals(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Kind]:
    """The visual arguments of a pipeline's call, in its order."""
    kinds = ((name, kind(name, parameters)) for name in parameters)
    return {name: which for name, which in kinds if which is not None}


def has_frames(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a pipeline makes videos whose length is asked for, or starts from some."""
    if synonym("frames", parameters) is not None:
        return True
    return any(which in ("video", "masks") for which in visuals(parameters).values())


def lengths(value: Any) -> set[int]:
    """How many frames the videos have that an argument is given: a list of pictures, or an array or a tensor [frames,
    ..., ..., ...] or [videos, frames, ..., ..., ...], or a list of these."""
    rank = getattr(value, "ndim", None)
    if rank is not None:
        return {value.shape[rank - 4]} if rank in (4, 5) else set()
    if not isinstance(value, (list, tuple)) or not value:
        return set()
    first = value[0]
    if isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) >= 4:
        return {length for clip in value for length in lengths(clip)}
    return {len(value)}


def _moves(name: str, parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether the argument is a list of pictures that follow each other."""
    takes = _takes_pictures(parameters[name]) and _depth(str(parameters[name].annotation)) > 0
    return takes and any(word in name for word in _MOVING)


def _takes_pictures(parameter: inspect.Parameter) -> bool:
    # Text, where a module leaves its annotations unevaluated; then also by diffusers' name for pictures of any type.
    annotation = str(parameter.annotation)
    return "Image.Image" in annotation or "PipelineImageInput" in annotation


def _depth(annotation: str) -> int:
    """How many lists are around the innermost picture; alternatives count at their deepest."""
    depth = deepest = 0
    for word in annotation.replace("[", " [ ").replace("]", " ] ").split():
        depth += {"[": 1, "]": -1}.get(word, 0)
        deepest = max(deepest, depth)
    return deepest - annotation.count("Union[") - annotation.count("Optional[")
