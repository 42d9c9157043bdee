"""The published configs of the models that are measured at full size, as data; `published` has the others.

Copied from the config.json files of the models named in each `Architecture.source`; keys that only say which
library version wrote the file are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.project.full_size.parts import (
    BETAS,
    CLIP_BIG_G,
    CLIP_L,
    FLUX_TRANSFORMER,
    FLUX_VAE,
    SDXL_UNET,
    SDXL_VAE,
    T5_XXL,
    UNET,
    VAE,
    Architecture,
    Part,
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "sd15": Architecture(
        source="stable-diffusion-v1-5, without its safety checker",
        pipeline="StableDiffusionPipeline",
        parts=(
            Part("text_encoder", "transformers", "CLIPTextModel", CLIP_L, key_prefix="text_model."),
            Part(
                "unet",
                "diffusers",
                "UNet2DConditionModel",
                {
                    **UNET,
                    "attention_head_dim": 8,
                    "block_out_channels": [320, 640, 1280, 1280],
                    "cross_attention_dim": 768,
                    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
                    "sample_size": 64,
                    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
                },
            ),
            Part("vae", "diffusers", "AutoencoderKL", VAE),
        ),
        tokenizers={"tokenizer": "CLIPTokenizer"},
        scheduler=("PNDMScheduler", {**BETAS, "set_alpha_to_one": False, "skip_prk_steps": True}),
        index={
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
        },
    ),
    "sdxl": Architecture(
        source="stable-diffusion-xl-base-1.0",
        pipeline="StableDiffusionXLPipeline",
        parts=(
            Part("text_encoder", "transformers", "CLIPTextModel", CLIP_L, key_prefix="text_model."),
            Part("text_encoder_2", "transformers", "CLIPTextModelWithProjection", CLIP_BIG_G),
            Part(
                "unet",
                "diffusers",
                "UNet2DConditionModel",
                SDXL_UNET,
            ),
            Part(
                "vae",
                "diffusers",
                "AutoencoderKL",
                SDXL_VAE,
            ),
        ),
        tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"},
        scheduler=(
            "EulerDiscreteScheduler",
            {**BETAS, "interpolation_type": "linear", "use_karras_sigmas": False},
        ),
        index={"force_zeros_for_empty_prompt": True},
    ),
    "flux": Architecture(
        source="FLUX.1-dev",
        pipeline="FluxPipeline",
        parts=(
            Part("text_encoder", "transformers", "CLIPTextModel", CLIP_L, key_prefix="text_model."),
            Part(
                "text_encoder_2",
                "transformers",
                "T5EncoderModel",
                T5_XXL,
            ),
            Part(
                "transformer",
                "diffusers",
                "FluxTransformer2DModel",
                FLUX_TRANSFORMER,
            ),
            Part(
                "vae",
                "diffusers",
                "AutoencoderKL",
                FLUX_VAE,
            ),
        ),
        tokenizers={"tokenizer": "CLIPTokenizer", "tokenizer_2": "T5TokenizerFast"},
        scheduler=(
            "FlowMatchEulerDiscreteScheduler",
            {
                "base_image_seq_len": 256,
                "base_shift": 0.5,
                "max_image_seq_len": 4096,
                "max_shift": 1.15,
                "num_train_timesteps": 1000,
                "shift": 3.0,
                "use_dynamic_shifting": True,
            },
        ),
    ),
}
