"""Stable Diffusion and what shares its UNet: 1.5, 2, XL, the XL refiner, LCM, ControlNet, InstructPix2Pix."""

from __future__ import annotations

from typing import Any

from tests.sweep import text
from tests.sweep.weights import seeded


def autoencoder(
    channels: int = 4, quant: bool = True, shift: float | None = None, levels: int = 2, seed: int = 0
) -> Any:
    """AutoencoderKL: latents are 2**(levels - 1) times smaller than the image."""
    from diffusers import AutoencoderKL

    return seeded(
        AutoencoderKL,
        seed=seed,
        block_out_channels=(16, *(32,) * (levels - 1)),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        norm_num_groups=8,
        layers_per_block=1,
        sample_size=32,
        shift_factor=shift,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )


def unet(seed: int = 0, **changes: Any) -> Any:
    """UNet2DConditionModel of two levels, cross-attention on the lower one."""
    from diffusers import UNet2DConditionModel

    arguments: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
    }
    return seeded(UNet2DConditionModel, seed=seed, **(arguments | changes))


XL = {
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 2),
    "cross_attention_dim": 64,
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd15() -> Any:
    """StableDiffusionPipeline, epsilon prediction, with PNDM."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text.clip_text(),
        tokenizer=text.clip_tokenizer(),
        unet=unet(),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd15_pag() -> Any:
    """StableDiffusionPAGPipeline: attention processors are set for the call, and back."""
    from diffusers import StableDiffusionPAGPipeline

    return StableDiffusionPAGPipeline(**sd15().components, requires_safety_checker=False)


def sd2() -> Any:
    """StableDiffusionPipeline as 2.x has it: v-prediction, linear projections, heads of one size, DDIM."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text.clip_text(),
        tokenizer=text.clip_tokenizer(pad_token="!"),
        unet=unet(attention_head_dim=(2, 4), use_linear_projection=True),
        scheduler=DDIMScheduler(
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            **BETAS,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def lcm() -> Any:
    """LatentConsistencyModelPipeline: the guidance scale is an embedding."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    return LatentConsistencyModelPipeline(
        vae=autoencoder(),
        text_encoder=text.clip_text(),
        tokenizer=text.clip_tokenizer(),
        unet=unet(time_cond_proj_dim=32),
        scheduler=LCMScheduler(clip_sample=False, set_alpha_to_one=True, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    """StableDiffusionXLPipeline: two text encoders, size conditioning."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text.clip_text(),
        text_encoder_2=text.clip_text(projection=32, seed=1),
        tokenizer=text.clip_tokenizer(),
        tokenizer_2=text.clip_tokenizer(pad_token="!"),
        unet=unet(projection_class_embeddings_input_dim=32 + 6 * 8, **XL),
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **BETAS),
        add_watermarker=False,
    )


def sdxl_pag() -> Any:
    """StableDiffusionXLPAGPipeline: attention processors are set for the call, and back."""
    from diffusers import StableDiffusionXLPAGPipeline

    return StableDiffusionXLPAGPipeline(**sdxl().components, add_watermarker=False)


def sdxl_refiner() -> Any:
    """StableDiffusionXLImg2ImgPipeline: the second text encoder alone, an aesthetic score."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline

    return StableDiffusionXLImg2ImgPipeline(
        vae=autoencoder(),
        text_encoder=None,
        text_encoder_2=text.clip_text(projection=32, seed=1),
        tokenizer=None,
        tokenizer_2=text.clip_tokenizer(pad_token="!"),
        unet=unet(projection_class_embeddings_input_dim=32 + 5 * 8, **(XL | {"cross_attention_dim": 32})),
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **BETAS),
        requires_aesthetics_score=True,
        add_watermarker=False,
    )


def sd15_inpaint() -> Any:
    """StableDiffusionInpaintPipeline with its own nine-channel UNet."""
    from diffusers import PNDMScheduler, StableDiffusionInpaintPipeline

    return StableDiffusionInpaintPipeline(
        vae=autoencoder(),
        text_encoder=text.clip_text(),
        tokenizer=text.clip_tokenizer(),
        unet=unet(in_channels=9),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pix2pix() -> Any:
    """StableDiffusionInstructPix2PixPipeline: the image is concatenated to the latents."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline

    return StableDiffusionInstructPix2PixPipeline(
        vae=autoencoder(),
        text_encoder=text.clip_text(),
        tokenizer=text.clip_tokenizer(),
        unet=unet(in_channels=8),
        scheduler=EulerAncestralDiscreteScheduler(**BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def controlnet(seed: int = 2, **changes: Any) -> Any:
    from diffusers import ControlNetModel

    arguments: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "conditioning_embedding_out_channels": (8, 16),
    }
    return seeded(ControlNetModel, seed=seed, **(arguments | changes))


def sd15_controlnet() -> Any:
    """StableDiffusionControlNetPipeline."""
    from diffusers import PNDMScheduler, StableDiffusionControlNetPipeline

    return StableDiffusionControlNetPipeline(
        vae=autoencoder(),
        text_encoder=text.clip_text(),
        tokenizer=text.clip_tokenizer(),
        unet=unet(),
        controlnet=controlnet(),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd15_controlnets() -> Any:
    """The same with two ControlNets, a component that is a list of models."""
    pipe = sd15_controlnet()
    nets = [pipe.controlnet, controlnet(seed=8)]
    return type(pipe)(**{**pipe.components, "controlnet": nets}, requires_safety_checker=False)


def sdxl_controlnet() -> Any:
    """StableDiffusionXLControlNetPipeline."""
    from diffusers import StableDiffusionXLControlNetPipeline

    base = sdxl().components
    optional = ("image_encoder", "feature_extractor")
    return StableDiffusionXLControlNetPipeline(
        **{name: base[name] for name in base if name not in optional},
        controlnet=controlnet(projection_class_embeddings_input_dim=32 + 6 * 8, **XL),
        add_watermarker=False,
    )


def sd15_repeated_controlnet() -> Any:
    """The same ControlNet twice, for two pictures."""
    pipe = sd15_controlnet()
    nets = [pipe.controlnet, pipe.controlnet]
    return type(pipe)(**{**pipe.components, "controlnet": nets}, requires_safety_checker=False)


def t2i_adapter() -> Any:
    """A T2I-Adapter for `unet`: latents are half as large as the picture."""
    from diffusers import T2IAdapter

    return seeded(T2IAdapter, seed=6, in_channels=3, channels=(16, 32), num_res_blocks=1, downscale_factor=2)


def sd15_t2i_adapter() -> Any:
    """StableDiffusionAdapterPipeline; as in 1.5, the first level has cross-attention."""
    from diffusers import StableDiffusionAdapterPipeline

    components = {n: c for n, c in sd15().components.items() if n != "image_encoder"}
    components["unet"] = unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return StableDiffusionAdapterPipeline(**components, adapter=t2i_adapter(), requires_safety_checker=False)
