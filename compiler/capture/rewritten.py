"""Modules whose Python cannot be recorded, and the same computations in tensors.

A graph is recorded on tensors without values, so code that takes sizes from values (`mask.sum().tolist()`), and
code that makes lists as long as a dimension, ends in an error or in a dimension that is fixed. The first nearly
always packs sequences of different lengths; with a mask over all slots the same numbers come out. What replaces
such code is listed here, each with its reason, and compared with the library's own code by tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch


@dataclass(frozen=True)
class Rewritten:
    """A method that stands for a class's own `method`, and why that one cannot be recorded."""

    method: str
    function: Callable[..., Any]
    reason: str


def lumina2_forward(
    self: Any,
    hidden_states: torch.Tensor,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_attention_mask: torch.Tensor,
    attention_kwargs: dict[str, Any] | None = None,
    return_dict: bool = True,
) -> Any:
    """Captions keep all their slots, the unused ones masked; the original packs caption and picture tightly.

    Attention does not see the order of its keys, only their rotary positions, which are the original's.
    """
    batch, _, height, width = hidden_states.shape
    patch = self.config.patch_size
    rows, columns, slots = height // patch, width // patch, encoder_attention_mask.shape[1]
    time, captions = self.time_caption_embed(hidden_states, timestep, encoder_hidden_states)

    lengths = encoder_attention_mask.sum(dim=1, keepdim=True)
    slot = torch.arange(slots, device=hidden_states.device)
    used = slot < lengths
    none = torch.zeros_like(used, dtype=slot.dtype)
    row = torch.arange(rows, device=slot.device).view(1, rows, 1).expand(batch, rows, columns).flatten(1)
    column = (
        torch.arange(columns, device=slot.device).view(1, 1, columns).expand(batch, rows, columns).flatten(1)
    )
    positions = torch.cat(
        [
            torch.stack([torch.where(used, slot, none), none, none], dim=-1),
            torch.stack([lengths.expand_as(row), row, column], dim=-1),
        ],
        dim=1,
    )
    rotary = self.rope_embedder._get_freqs_cis(positions)
    caption_rotary = torch.where(used.unsqueeze(-1), rotary[:, :slots], torch.zeros_like(rotary[:, :slots]))

    picture = hidden_states.view(batch, -1, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    picture = self.x_embedder(picture.flatten(3).flatten(1, 2))
    for layer in self.context_refiner:
        captions = layer(captions, encoder_attention_mask, caption_rotary)
    for layer in self.noise_refiner:
        picture = layer(picture, None, rotary[:, slots:], time)

    joint = torch.cat([captions, picture], dim=1)
    mask = torch.cat([used, torch.ones_like(row, dtype=torch.bool)], dim=1)
    for layer in self.layers:
        joint = layer(joint, mask, rotary, time)
    joint = self.norm_out(joint, time)

    output = joint[:, slots:].reshape(batch, rows, columns, patch, patch, self.out_channels)
    output = output.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    if not return_dict:
        return (output,)
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    return Transformer2DModelOutput(sample=output)


def chroma_embedding_forward(self: Any, timestep: torch.Tensor) -> torch.Tensor:
    """A guidance of zero for each timestep, from the tensor of timesteps."""
    times = self.time_proj(timestep).to(timestep.dtype)
    guidance = self.guidance_proj(torch.zeros_like(timestep)).to(timestep.dtype)
    slots = self.mod_proj.to(timestep.dtype).unsqueeze(0).expand(timestep.shape[0], -1, -1)
    both = torch.cat([times, guidance], dim=1).unsqueeze(1).expand(-1, slots.shape[1], -1)
    return torch.cat([both, slots], dim=-1)


def qwen_rotary_forward(
    self: Any, video_fhw: Any, device: Any = None, max_txt_seq_len: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary tables of the picture and of the caption, complex64 [tokens, C] each; the caption's length stays free."""
    sizes = video_fhw[0] if isinstance(video_fhw, list) else video_fhw
    sizes = sizes if isinstance(sizes, list) else [sizes]
    picture = [self._compute_video_freqs(*size, index, device) for index, size in enumerate(sizes)]
    start = max(max(h // 2, w // 2) if self.scale_rope else max(h, w) for _, h, w in sizes)
    table, _ = self._get_device_freqs(device)
    return torch.cat(picture, dim=0), table[start : start + max_txt_seq_len]


REWRITTEN: dict[str, Rewritten] = {
    "diffusers.models.transformers.transformer_qwenimage:QwenEmbedRope": Rewritten(
        "forward",
        qwen_rotary_forward,
        "slices its table to int(max_txt_seq_len), which fixes the caption's length",
    ),
    "diffusers.models.transformers.transformer_lumina2:Lumina2Transformer2DModel": Rewritten(
        "forward",
        lumina2_forward,
        "packs each caption's tokens and its picture's tightly: lengths from attention_mask.sum().tolist()",
    ),
    "diffusers.models.transformers.transformer_chroma:ChromaCombinedTimestepTextProjEmbeddings": Rewritten(
        "forward",
        chroma_embedding_forward,
        "makes a Python list as long as the batch, torch.tensor([0] * batch_size), which fixes the batch",
    ),
}


def recordable(module: torch.nn.Module) -> torch.nn.Module:
    """`module` itself: it and its parts in `REWRITTEN` get a subclass whose method can be recorded.

    The subclass goes by the name of the original, whose attributes, signature and `isinstance` it keeps.
    """
    for part in module.modules():
        cls = type(part)
        replacement = REWRITTEN.get(f"{cls.__module__}:{cls.__qualname__}")
        if replacement is None:
            continue
        method = wraps(getattr(cls, replacement.method))(replacement.function)
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, replacement.method: method}
        part.__class__ = type(cls.__name__, (cls,), names)
    return module
