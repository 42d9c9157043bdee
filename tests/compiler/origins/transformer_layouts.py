"""Tiny pipelines of SD 3 and FLUX written as one file: the inverse of diffusers' conversion, by the scheme of the
original repositories and of ComfyUI's checkpoints."""

from __future__ import annotations

import re
from pathlib import Path
from types import CodeType
from typing import Any

import torch

from tests.compiler.origins import original_layouts

State = dict[str, torch.Tensor]

SD3 = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
SD3_BLOCK = {
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
SD3_JOINED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
}
FLUX_DOUBLE_JOINED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2",
}
FLUX_SINGLE_JOINED = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}


def _blocks(state: State, stem: str, to: str, names: dict[str, str], joined: dict[str, Any]) -> State:
    """The blocks `stem`.0, `stem`.1, ... by other names, some of their weights joined."""
    result: State = {}
    numbers = {int(m[1]) for name in state if (m := re.match(rf"{stem}\.(\d+)\.", name))}
    for number in sorted(numbers):
        at, there = f"{stem}.{number}", f"{to}.{number}"
        for old, parts in joined.items():
            for kind in ("weight", "bias"):
                tensors = [state[f"{at}.{p}.{kind}"] for p in parts if f"{at}.{p}.{kind}" in state]
                if tensors:
                    result[f"{there}.{old}.{kind}"] = torch.cat(tensors)
        for name, old in names.items():
            for kind in ("weight", "bias"):
                if f"{at}.{name}.{kind}" in state:
                    result[f"{there}.{old}.{kind}"] = state[f"{at}.{name}.{kind}"]
    return result


def _outside(state: State, names: dict[str, str]) -> State:
    return {
        name.replace(new, old): tensor
        for new, old in names.items()
        for name, tensor in state.items()
        if name == new or name.rpartition(".")[0] == new
    }


def _swapped(tensor: torch.Tensor) -> torch.Tensor:
    """Shift before scale, as the original has them."""
    scale, shift = tensor.chunk(2)
    return torch.cat([shift, scale])


def sd3_transformer(module: Any) -> State:
    """An SD3Transformer2DModel's weights by the names of Stability's MMDiT."""
    state = module.state_dict()
    result = _outside(state, SD3) | {n: t for n, t in state.items() if n.startswith("context_embedder.")}
    result |= _blocks(state, "transformer_blocks", "joint_blocks", SD3_BLOCK, SD3_JOINED)
    last = f"joint_blocks.{module.config.num_layers - 1}.context_block.adaLN_modulation.1"
    for name in ("final_layer.adaLN_modulation.1", last):
        for kind in ("weight", "bias"):
            result[f"{name}.{kind}"] = _swapped(result[f"{name}.{kind}"])
    return result


def flux_transformer(module: Any) -> State:
    """A FluxTransformer2DModel's weights by the names of Black Forest Labs' model."""
    state = module.state_dict()
    result = _outside(state, FLUX)
    result |= _blocks(state, "transformer_blocks", "double_blocks", FLUX_DOUBLE, FLUX_DOUBLE_JOINED)
    result |= _blocks(state, "single_transformer_blocks", "single_blocks", FLUX_SINGLE, FLUX_SINGLE_JOINED)
    result = {re.sub(r"(query_norm|key_norm)\.weight$", r"\1.scale", n): t for n, t in result.items()}
    for kind in ("weight", "bias"):
        name = f"final_layer.adaLN_modulation.1.{kind}"
        result[name] = _swapped(result[name])
    return result


def t5(module: Any) -> State:
    """A T5EncoderModel's weights; the table is stored once."""
    return {n: t for n, t in module.state_dict().items() if n != "encoder.embed_tokens.weight"}


def clip_with_projection(module: Any) -> State:
    """A CLIPTextModelWithProjection's, as SD 3's files have the larger one."""
    projection = {"text_projection.weight": module.state_dict()["text_projection.weight"]}
    inner = {n: t for n, t in module.state_dict().items() if not n.startswith("text_projection")}
    return {f"text_model.{n.removeprefix('text_model.')}": t for n, t in inner.items()} | projection


def sd3(pipe: Any, file: Path) -> Path:
    """An SD 3 pipeline as one file."""
    clip = {n: t for n, t in clip_with_projection(pipe.text_encoder).items() if "projection" not in n}
    return original_layouts.write(
        file,
        {
            "model.diffusion_model.": sd3_transformer(pipe.transformer),
            "first_stage_model.": original_layouts.vae(pipe.vae),
            "text_encoders.clip_l.transformer.": clip,
            "text_encoders.clip_g.transformer.": clip_with_projection(pipe.text_encoder_2),
            "text_encoders.t5xxl.transformer.": t5(pipe.text_encoder_3),
        },
    )


def flux(pipe: Any, file: Path) -> Path:
    """A FLUX pipeline as one file."""
    return original_layouts.write(
        file,
        {
            "model.diffusion_model.": flux_transformer(pipe.transformer),
            "vae.": original_layouts.vae(pipe.vae),
            "text_encoders.clip_l.transformer.": original_layouts.clip(pipe.text_encoder),
            "text_encoders.t5xxl.transformer.": t5(pipe.text_encoder_2),
        },
    )


def of_width(function: Any, usual: int, width: int) -> Any:
    """diffusers' conversion of FLUX, which knows one width of the model, for a tiny one."""
    code: CodeType = function.__code__
    constants = tuple(width if constant == usual else constant for constant in code.co_consts)
    return type(function)(
        code.replace(co_consts=constants), function.__globals__, function.__name__, function.__defaults__
    )
