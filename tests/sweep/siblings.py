"""Pipelines of pictures made of others' components: masks, controls, adapters, perturbed attention, upscalers."""

from __future__ import annotations

import inspect
from typing import Any

from tests.sweep import flow, sd, unclip
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


def flux_with_channels(name: str, channels: int) -> Any:
    """A pipeline of FLUX whose transformer takes more channels than it returns: a control, or a masked picture."""
    from diffusers import FluxTransformer2DModel

    base = flow.flux()
    config = {k: v for k, v in base.transformer.config.items() if not k.startswith("_")}
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
