"""Stable Diffusion's relatives, as published: 2.1, the XL refiner, an XL ControlNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.project.full_size.parts import (
    BETAS,
    CLIP_BIG_G,
    CLIP_L,
    SDXL_UNET,
    SDXL_VAE,
    UNET,
    VAE,
    Architecture,
    Part,
)

_CLIP_H: Mapping[str, Any] = {
    **CLIP_L,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,  # the last of 24 is not used
    "projection_dim": 512,
}
_EULER = ("EulerDiscreteScheduler", {**BETAS, "interpolation_type": "linear", "use_karras_sigmas": False})
_SDXL_BASE = (
    Part("text_encoder", "transformers", "CLIPTextModel", CLIP_L, key_prefix="text_model."),
    Part("text_encoder_2", "transformers", "CLIPTextModelWithProjection", CLIP_BIG_G),
    Part("unet", "diffusers", "UNet2DConditionModel", SDXL_UNET),
    Part("vae", "diffusers", "AutoencoderKL", SDXL_VAE),
)
_NOT_THE_CONTROLNETS = (
    "center_input_sample",
    "mid_block_scale_factor",
    "out_channels",
    "sample_size",
    "up_block_types",
)

UNETS: Mapping[str, Architecture] = {
    "sd21": Architecture(
        source="stable-diffusion-2-1",
        pipeline="StableDiffusionPipeline",
        parts=(
            Part("text_encoder", "transformers", "CLIPTextModel", _CLIP_H, key_prefix="text_model."),
            Part(
                "unet",
                "diffusers",
                "UNet2DConditionModel",
                {
                    **UNET,
                    "attention_head_dim": [5, 10, 20, 20],
                    "block_out_channels": [320, 640, 1280, 1280],
                    "cross_attention_dim": 1024,
                    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
                    "sample_size": 96,
                    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
                    "use_linear_projection": True,
                },
            ),
            Part("vae", "diffusers", "AutoencoderKL", {**VAE, "sample_size": 768}),
        ),
        tokenizers={"tokenizer": "CLIPTokenizer"},
        scheduler=(
            "DDIMScheduler",
            {**BETAS, "clip_sample": False, "prediction_type": "v_prediction", "set_alpha_to_one": False},
        ),
        index={
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
        },
    ),
    "sdxl-refiner": Architecture(
        source="stable-diffusion-xl-refiner-1.0",
        pipeline="StableDiffusionXLImg2ImgPipeline",
        parts=(
            Part("text_encoder_2", "transformers", "CLIPTextModelWithProjection", CLIP_BIG_G),
            Part(
                "unet",
                "diffusers",
                "UNet2DConditionModel",
                {
                    **SDXL_UNET,
                    "attention_head_dim": [6, 12, 24, 24],
                    "block_out_channels": [384, 768, 1536, 1536],
                    "cross_attention_dim": 1280,
                    "down_block_types": [
                        "DownBlock2D",
                        "CrossAttnDownBlock2D",
                        "CrossAttnDownBlock2D",
                        "DownBlock2D",
                    ],
                    "projection_class_embeddings_input_dim": 2560,
                    "transformer_layers_per_block": 4,
                    "up_block_types": [
                        "UpBlock2D",
                        "CrossAttnUpBlock2D",
                        "CrossAttnUpBlock2D",
                        "UpBlock2D",
                    ],
                },
            ),
            Part("vae", "diffusers", "AutoencoderKL", SDXL_VAE),
        ),
        tokenizers={"tokenizer_2": "CLIPTokenizer"},
        scheduler=_EULER,
        index={
            "force_zeros_for_empty_prompt": False,
            "requires_aesthetics_score": True,
            "text_encoder": [None, None],
            "tokenizer": [None, None],
        },
    ),
    "sdxl-controlnet": Architecture(
        source="controlnet-canny-sdxl-1.0 with stable-diffusion-xl-base-1.0",
        pipeline="StableDiffusionXLControlNetPipeline",
        parts=(
            *_SDXL_BASE,
            Part(
                "controlnet",
                "diffusers",
                "ControlNetModel",
                {
                    **{key: value for key, value in SDXL_UNET.items() if key not in _NOT_THE_CONTROLNETS},
                    "conditioning_embedding_out_channels": [16, 32, 96, 256],
                },
            ),
        ),
        tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"},
        scheduler=_EULER,
        index={"force_zeros_for_empty_prompt": True},
    ),
}
