"""Tiny pipelines of Stable Diffusion and SDXL written as the single files that model sites have: the inverse of
diffusers' conversion, by the scheme of the original repositories."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet(module: Any) -> dict[str, torch.Tensor]:
    """A UNet2DConditionModel's weights by the names of Stability's UNetModel."""
    state = module.state_dict()
    layers = module.config.layers_per_block
    result = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if stem in OUTSIDE:
            result[f"{OUTSIDE[stem]}.{kind}"] = tensor
            continue
        block = re.match(r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)", stem)
        assert block is not None, name
        where, number, part, index, rest = block.groups()
        i, j = int(number or 0), int(index)
        rest = RESNET.get(rest, rest) if part == "resnets" else rest
        if where == "mid_block":
            place = f"middle_block.{1 if part == 'attentions' else 2 * j}"
        elif part == "downsamplers":
            place, rest = f"input_blocks.{(layers + 1) * (i + 1)}.0", "op"
        elif part == "upsamplers":
            attended = any(key.startswith(f"up_blocks.{i}.attentions") for key in state)
            place = f"output_blocks.{(layers + 1) * i + layers}.{2 if attended else 1}"
        elif where == "down_blocks":
            place = f"input_blocks.{(layers + 1) * i + j + 1}.{int(part == 'attentions')}"
        else:
            place = f"output_blocks.{(layers + 1) * i + j}.{int(part == 'attentions')}"
        result[f"{place}.{rest}.{kind}"] = tensor
    return result


def vae(module: Any) -> dict[str, torch.Tensor]:
    """An AutoencoderKL's weights by the names of the original one."""
    blocks = len(module.config.block_out_channels)
    result = {}
    for name, tensor in module.state_dict().items():
        old = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        old = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", old)
        old = re.sub(
            r"up_blocks\.(\d+)\.resnets\.(\d+)",
            lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}",
            old,
        )
        old = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", old
        )
        old = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", old)
        old = old.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in old:
            old = old.replace("mid_block.attentions.0", "mid.attn_1")
            for new, short in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                old = old.replace(f".{new}.", f".{short}.")
            tensor = tensor[..., None, None] if tensor.dim() == 2 else tensor
        result[old] = tensor
    return result


def clip(module: Any) -> dict[str, torch.Tensor]:
    """A CLIPTextModel's weights as transformers called them when these files were made."""
    return {f"text_model.{k.removeprefix('text_model.')}": v for k, v in module.state_dict().items()}


def open_clip(module: Any) -> dict[str, torch.Tensor]:
    """A CLIPTextModelWithProjection's weights by OpenCLIP's names: queries, keys and values are one matrix."""
    state = {k.removeprefix("text_model."): v for k, v in module.state_dict().items()}
    result = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
    }
    for name, tensor in state.items():
        layer = re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer is None:
            if name.startswith("final_layer_norm"):
                result[name.replace("final_layer_norm", "ln_final")] = tensor
            continue
        number, part, kind = layer.groups()
        at = f"transformer.resblocks.{number}"
        if part.endswith(("q_proj", "k_proj", "v_proj")):
            joined = [state[f"encoder.layers.{number}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            result[f"{at}.attn.in_proj_{kind}"] = torch.cat(joined)
            continue
        names = {
            "self_attn.out_proj": "attn.out_proj",
            "layer_norm1": "ln_1",
            "layer_norm2": "ln_2",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
        }
        result[f"{at}.{names[part]}.{kind}"] = tensor
    return result


def write(file: Path, parts: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    """A checkpoint: each part's tensors behind its prefix."""
    state = {f"{prefix}{name}": t.contiguous() for prefix, part in parts.items() for name, t in part.items()}
    save_file(state, file)
    return file


def stable_diffusion(pipe: Any, file: Path) -> Path:
    """A Stable Diffusion 1 pipeline as one file."""
    return write(
        file,
        {
            "model.diffusion_model.": unet(pipe.unet),
            "first_stage_model.": vae(pipe.vae),
            "cond_stage_model.transformer.": clip(pipe.text_encoder),
        },
    )


def sdxl(pipe: Any, file: Path) -> Path:
    """An SDXL pipeline as one file."""
    return write(
        file,
        {
            "model.diffusion_model.": unet(pipe.unet),
            "first_stage_model.": vae(pipe.vae),
            "conditioner.embedders.0.transformer.": clip(pipe.text_encoder),
            "conditioner.embedders.1.model.": open_clip(pipe.text_encoder_2),
        },
    )
