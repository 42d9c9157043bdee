"""A pipeline's call with the embeddings of its prompts in their places, stretched to another length of the text.

Prompts with weights and prompts longer than a text encoder reads become embeddings outside of the pipeline (compel,
sd_embed). What a pipeline takes in their places, its own `encode_prompt` returns.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from artifacts.errors import UsageError


def embedded(pipe: Any, keywords: Mapping[str, Any], tokens: int) -> tuple[dict[str, Any], int]:
    """The keywords of a call with embeddings of `tokens` tokens for its prompts, and the pipeline's own length.

    Args:
        keywords: a call with prompts.

    Raises:
        UsageError: the pipeline takes no embeddings.
    """
    encode = getattr(pipe, "encode_prompt", None)
    taken = inspect.signature(type(pipe).__call__).parameters
    parameters = {} if encode is None else inspect.signature(encode).parameters
    names = [name for name in parameters if name in taken and name.endswith(("_embeds", "_mask"))]
    if "prompt_embeds" not in names or encode is None:
        raise UsageError(
            f"{type(pipe).__name__} takes no embeddings of its prompt, so its text has one length.",
            "Leave --tokens out",
        )
    guided = keywords.get("negative_prompt") is not None
    options = {
        "device": torch.device("cpu"),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": guided,
        **{name: value for name, value in keywords.items() if _is_text(name)},
    }
    returned = encode(**{name: value for name, value in options.items() if name in parameters})
    tensors = [value for value in returned if isinstance(value, torch.Tensor)]
    own = next(value.shape[1] for value in tensors if value.ndim == 3)
    groups: dict[str, list[torch.Tensor]] = {"sequence": [], "mask": [], "pooled": []}
    for value in tensors:
        integers = not value.is_floating_point() and value.shape[1:] == (own,)
        groups["mask" if integers else "sequence" if value.ndim == 3 else "pooled"].append(value)
    call = {name: value for name, value in keywords.items() if not _is_text(name)}
    call |= {
        name: None
        for name, parameter in taken.items()
        if isinstance(parameter.default, str) and _is_text(name)
    }
    for name in names:
        group = groups["mask" if name.endswith("_mask") else "pooled" if "pooled" in name else "sequence"]
        if group and (guided or not name.startswith("negative")):
            value = group.pop(0)
            call[name] = value if group is groups["pooled"] else _stretched(value, tokens)
    return call, own


def _is_text(name: str) -> bool:
    return name.startswith(("prompt", "negative_prompt"))


def _stretched(value: torch.Tensor, tokens: int) -> torch.Tensor:
    """The same with its second axis repeated or cut to `tokens`."""
    repeats = -(-tokens // value.shape[1])
    return value.repeat(1, repeats, *[1] * (value.ndim - 2))[:, :tokens]
