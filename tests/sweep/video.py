"""Videos: AnimateDiff, Text2Video-Zero, Latte, Wan, LTX."""

from __future__ import annotations

from typing import Any

from tests.sweep import flow, sd, text
from tests.sweep.sd import autoencoder, unet
from tests.sweep.siblings import of
from tests.sweep.weights import seeded


def motion(**changes: Any) -> Any:
    """MotionAdapter for `sd.unet`."""
    from diffusers import MotionAdapter

    arguments: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "motion_layers_per_block": 1,
        "motion_mid_block_layers_per_block": 1,
        "motion_norm_num_groups": 8,
        "motion_num_attention_heads": 2,
    }
    return seeded(MotionAdapter, **(arguments | changes))


def animated(name: str, **parts: Any) -> Any:
    """A pipeline of AnimateDiff: a UNet of pictures with motion modules between."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False, steps_offset=1)
    parts = {"motion_adapter": motion(), "scheduler": scheduler, "unet": unet(), **parts}
    return of(name, sd.sd15(), **parts)


def animatediff() -> Any:
    """AnimateDiffPipeline."""
    return animated("AnimateDiffPipeline")


def animatediff_video() -> Any:
    """AnimateDiffVideoToVideoPipeline."""
    return animated("AnimateDiffVideoToVideoPipeline")


def animatediff_controlnet() -> Any:
    """AnimateDiffControlNetPipeline, which follows frames."""
    return animated("AnimateDiffControlNetPipeline", controlnet=sd.sd15_controlnet().controlnet)


def text_to_video_zero() -> Any:
    """TextToVideoZeroPipeline: each frame of a prompt attends to the first one, which is drawn before the others."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **sd.BETAS)
    return of("TextToVideoZeroPipeline", sd.sd15(), scheduler=scheduler)


def latte() -> Any:
    """LattePipeline: transformer blocks over space and time in turn."""
    from diffusers import LattePipeline, LatteTransformer3DModel

    transformer = seeded(
        LatteTransformer3DModel,
        sample_size=16,
        video_length=4,
        num_layers=1,
        patch_size=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=32,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    return LattePipeline(
        tokenizer=text.t5_tokenizer(),
        text_encoder=text.t5(),
        vae=autoencoder(),
        transformer=transformer,
        scheduler=sd.sd2().scheduler,
    )


def _wan_vae() -> Any:
    from diffusers import AutoencoderKLWan

    return seeded(
        AutoencoderKLWan,
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def wan(name: str = "WanPipeline", channels: int = 16, **parts: Any) -> Any:
    """A pipeline of Wan 2.1: causal autoencoder, rotary positions in three axes."""
    import diffusers

    transformer = seeded(
        diffusers.WanTransformer3DModel,
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=16,
        text_dim=32,
        freq_dim=64,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
        image_dim=32 if "image_encoder" in parts else None,
    )
    return getattr(diffusers, name)(
        transformer=transformer,
        vae=_wan_vae(),
        scheduler=flow.flow_match(shift=7.0),
        text_encoder=text.umt5(),
        tokenizer=text.t5_tokenizer(),
        **parts,
    )


def ltx(name: str = "LTXPipeline") -> Any:
    """A pipeline of LTX Video."""
    import diffusers

    transformer = seeded(
        diffusers.LTXVideoTransformer3DModel,
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = seeded(
        diffusers.AutoencoderKLLTXVideo,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        patch_size=1,
        patch_size_t=1,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return getattr(diffusers, name)(
        transformer=transformer,
        vae=vae,
        scheduler=flow.flow_match(),
        text_encoder=text.t5(),
        tokenizer=text.t5_tokenizer(),
    )
