"""Pipelines of pictures made of others' components: masks, controls, adapters, perturbed attention, upscalers."""

from __future__ import annotations

import inspect
from typing import Any

from tests.sweep import flow, sd, text, unclip
from tests.sweep.weights import seeded


def of(name: str, base: Any, **parts: Any) -> Any:
    """A pipeline of diffusers' class `name` with the components of `base` that it takes, and `parts`."""
    import diffusers

    cls = getattr(diffusers, name)
    taken = inspect.signature(cls.__init__).parameters
    switches = {"requires_safety_checker": False, "add_watermarker": False}
    values = {**base.components, **switches, **parts}
    return cls(**{n: value for n, value in values.items() if n in taken})


def with_controlnet(name: str, **parts: Any) -> Any:
    """A pipeline of SD 1.5 with a ControlNet."""
    return of(name, sd.sd15_controlnet(), **parts)


def xl_with_controlnet(name: str) -> Any:
    """A pipeline of SDXL with a ControlNet."""
    return of(name, sd.sdxl_controlnet())


def with_adapter(name: str, base: Any, **changes: Any) -> Any:
    """A pipeline with a T2I adapter for a UNet of two levels, cross-attention on the upper one."""
    from diffusers import T2IAdapter

    network = sd.unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **changes,
    )

    adapter = seeded(
        T2IAdapter,
        seed=5,
        channels=[16, 32],
        num_res_blocks=1,
        downscale_factor=2,
        adapter_type="full_adapter",
    )
    return of(name, base, adapter=adapter, unet=network)


def xl_union(name: str) -> Any:
    """A pipeline of SDXL with a ControlNet for several kinds of controls."""
    from diffusers import ControlNetUnionModel

    base = sd.sdxl()
    union = seeded(
        ControlNetUnionModel,
        seed=6,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=64,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        conditioning_embedding_out_channels=(8, 16),
        num_control_type=2,
        num_trans_channel=16,
        num_trans_head=2,
        num_proj_channel=16,
    )
    return of(name, base, controlnet=union)


def xl_pix2pix() -> Any:
    """StableDiffusionXLInstructPix2PixPipeline: eight input channels."""
    wide = sd.unet(in_channels=8, projection_class_embeddings_input_dim=32 + 6 * 8, **sd.XL)
    return of("StableDiffusionXLInstructPix2PixPipeline", sd.sdxl(), unet=wide)


def upscale() -> Any:
    """StableDiffusionUpscalePipeline: a small picture and its noise level beside the latents."""
    from diffusers import DDPMScheduler

    unet = sd.unet(in_channels=7, num_class_embeds=1000)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    return of("StableDiffusionUpscalePipeline", sd.sd2(), unet=unet, low_res_scheduler=scheduler)


def latents_to_pictures(name: str, **parts: Any) -> Any:
    """Marigold, which draws what it measures of a picture."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1, **sd.BETAS
    )
    return of(name, sd.sd15(), unet=sd.unet(in_channels=8), scheduler=scheduler, **parts)


def ldm() -> Any:
    """LDMTextToImagePipeline: the text encoder is called "bert", the autoencoder "vqvae"."""
    from diffusers import LDMTextToImagePipeline

    base = sd.sd2().components
    return LDMTextToImagePipeline(
        vqvae=base["vae"],
        bert=base["text_encoder"],
        tokenizer=base["tokenizer"],
        unet=sd.unet(),
        scheduler=base["scheduler"],
    )


def config_of(model: Any, model_class: Any) -> dict[str, Any]:
    """What `model_class` takes of the config of `model`."""
    parameters = inspect.signature(model_class.__init__).parameters
    return {name: value for name, value in model.config.items() if name in parameters}


def sd3_inpaint() -> Any:
    """StableDiffusion3InpaintPipeline, which wants latents of 16 channels."""
    from diffusers import SD3Transformer2DModel

    base = flow.sd3()
    config = {**config_of(base.transformer, SD3Transformer2DModel), "in_channels": 16, "out_channels": 16}
    transformer = seeded(SD3Transformer2DModel, **config)
    vae = sd.autoencoder(channels=16, quant=False, shift=0.06)
    return of("StableDiffusion3InpaintPipeline", base, transformer=transformer, vae=vae)


def sd3_with_controlnet(name: str, **changes: Any) -> Any:
    """A pipeline of SD 3 with a ControlNet."""
    from diffusers import SD3ControlNetModel

    base = flow.sd3()
    config = config_of(base.transformer, SD3ControlNetModel)
    return of(name, base, controlnet=seeded(SD3ControlNetModel, seed=7, **{**config, **changes}))


def flux_with_controlnet(name: str) -> Any:
    """A pipeline of FLUX with a ControlNet."""
    from diffusers import FluxControlNetModel

    base = flow.flux()
    config = config_of(base.transformer, FluxControlNetModel)
    return of(name, base, controlnet=seeded(FluxControlNetModel, seed=7, **config))


def flux_with_channels(name: str, channels: int) -> Any:
    """A pipeline of FLUX whose transformer takes more channels than it returns: a control, or a masked picture."""
    from diffusers import FluxTransformer2DModel

    base = flow.flux()
    config = config_of(base.transformer, FluxTransformer2DModel)
    wide = seeded(FluxTransformer2DModel, **{**config, "in_channels": channels, "out_channels": 16})
    return of(name, base, transformer=wide)


def unconditional(name: str, scheduler: str, **options: Any) -> Any:
    """A UNet and a scheduler, without prompt and decoder."""
    import diffusers

    unet = seeded(
        diffusers.UNet2DModel,
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return getattr(diffusers, name)(unet=unet, scheduler=getattr(diffusers, scheduler)(**options))


def kandinsky_combined(name: str, base: Any) -> Any:
    """A prior and its decoder in one pipeline."""
    import diffusers

    prior = unclip.kandinsky_prior().components
    return getattr(diffusers, name)(**base.components, **{f"prior_{n}": part for n, part in prior.items()})


def image_variation() -> Any:
    """StableDiffusionImageVariationPipeline: a picture's embedding in place of a prompt."""
    from diffusers import StableDiffusionImageVariationPipeline

    base = sd.sd15().components
    return StableDiffusionImageVariationPipeline(
        vae=base["vae"],
        image_encoder=text.clip_vision(),
        unet=base["unet"],
        scheduler=base["scheduler"],
        safety_checker=None,
        feature_extractor=text.clip_images(),
        requires_safety_checker=False,
    )
