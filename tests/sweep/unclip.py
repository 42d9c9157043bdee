"""Pipelines in stages, a prior and a decoder: Kandinsky 2.2 and Stable Cascade."""

from __future__ import annotations

from typing import Any

from tests.sweep import text
from tests.sweep.weights import seeded


def _movq() -> Any:
    import torch
    from diffusers import VQModel

    movq = seeded(
        VQModel,
        block_out_channels=[32, 32],  # its spatial norms have 32 groups
        down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    with torch.no_grad():  # nothing normalizes what it decodes: keep most of it inside -1..1
        movq.decoder.conv_out.weight.mul_(0.5)
    return movq


def _kandinsky_unet(in_channels: int) -> Any:
    from diffusers import UNet2DConditionModel

    return seeded(
        UNet2DConditionModel,
        in_channels=in_channels,
        out_channels=8,  # mean and variance
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(16, 32),
        norm_num_groups=8,
        layers_per_block=1,
        encoder_hid_dim=32,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=32,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
    )


def _ddpm() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=True,
        clip_sample_range=2.0,
        prediction_type="epsilon",
        variance_type="learned_range",
        thresholding=False,
    )


def kandinsky_prior() -> Any:
    """KandinskyV22PriorPipeline: a caption to an image embedding."""
    import torch
    from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler

    prior = seeded(
        PriorTransformer,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        embedding_dim=32,
        num_embeddings=77,
    )
    with torch.no_grad():
        prior.clip_std.copy_(torch.linspace(0.5, 1.5, 32))
    return KandinskyV22PriorPipeline(
        prior=prior,
        image_encoder=text.clip_vision(),
        text_encoder=text.clip_text(projection=32),
        tokenizer=text.clip_tokenizer(),
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            num_train_timesteps=1000,
            clip_sample=True,
            clip_sample_range=10.0,
        ),
        image_processor=text.clip_images(),
    )


def kandinsky() -> Any:
    """KandinskyV22Pipeline: an image embedding to an image, through MOVQ."""
    from diffusers import KandinskyV22Pipeline

    return KandinskyV22Pipeline(unet=_kandinsky_unet(4), scheduler=_ddpm(), movq=_movq())


def kandinsky_inpaint() -> Any:
    """KandinskyV22InpaintPipeline: nine input channels."""
    from diffusers import KandinskyV22InpaintPipeline

    return KandinskyV22InpaintPipeline(unet=_kandinsky_unet(9), scheduler=_ddpm(), movq=_movq())


def cascade_prior() -> Any:
    """StableCascadePriorPipeline."""
    from diffusers import DDPMWuerstchenScheduler, StableCascadePriorPipeline
    from diffusers.models import StableCascadeUNet

    prior = seeded(
        StableCascadeUNet,
        conditioning_dim=32,
        block_out_channels=(32, 32),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        switch_level=(False,),
        clip_image_in_channels=32,
        clip_text_in_channels=32,
        clip_text_pooled_in_channels=32,
        dropout=(0.0, 0.0),
    )
    return StableCascadePriorPipeline(
        tokenizer=text.clip_tokenizer(),
        text_encoder=text.clip_text(projection=32),
        prior=prior,
        scheduler=DDPMWuerstchenScheduler(),
        resolution_multiple=8.0,
        feature_extractor=None,
        image_encoder=None,
    )


def cascade_decoder() -> Any:
    """StableCascadeDecoderPipeline, with Paella's VQGAN."""
    import torch
    from diffusers import DDPMWuerstchenScheduler, StableCascadeDecoderPipeline
    from diffusers.models import StableCascadeUNet
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    plain = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
    decoder = seeded(
        StableCascadeUNet,
        in_channels=4,
        out_channels=4,
        conditioning_dim=32,
        block_out_channels=(16, 32),
        num_attention_heads=(-1, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(2, 1),
        block_types_per_layer=(plain, (*plain, "SDCascadeAttnBlock")),
        effnet_in_channels=16,
        clip_text_pooled_in_channels=32,
        dropout=(0.0, 0.0),
        kernel_size=3,
        timestep_conditioning_type=("sca",),
        switch_level=None,
    )
    vqgan = seeded(
        PaellaVQModel,
        bottleneck_blocks=1,
        num_vq_embeddings=8,
        embed_dim=16,
        levels=2,
        up_down_scale_factor=2,
    )
    with (
        torch.no_grad()
    ):  # two steps of this schedule leave latents in the hundreds: bring them back into 0..1
        vqgan.out_block[0].weight.mul_(0.002)
        vqgan.out_block[0].bias.fill_(0.5)
    return StableCascadeDecoderPipeline(
        decoder=decoder,
        tokenizer=text.clip_tokenizer(),
        text_encoder=text.clip_text(projection=32),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=vqgan,
    )
