"""Video: AnimateDiff, from a text and from a video."""

from __future__ import annotations

from typing import Any

from tests.sweep import text
from tests.sweep.sd import autoencoder, unet
from tests.sweep.weights import seeded


def _motion() -> Any:
    from diffusers import MotionAdapter

    return seeded(
        MotionAdapter,
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=2,
    )


def _animated(pipeline_class: Any, **parts: Any) -> Any:
    from diffusers import DDIMScheduler

    return pipeline_class(
        vae=autoencoder(),
        text_encoder=text.clip_text(),
        tokenizer=text.clip_tokenizer(),
        unet=unet(),
        motion_adapter=_motion(),
        scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False, steps_offset=1),
        **parts,
    )


def animatediff() -> Any:
    """AnimateDiffPipeline: a UNet of pictures with motion modules between."""
    from diffusers import AnimateDiffPipeline

    return _animated(AnimateDiffPipeline)


def animatediff_video() -> Any:
    """AnimateDiffVideoToVideoPipeline."""
    from diffusers import AnimateDiffVideoToVideoPipeline

    return _animated(AnimateDiffVideoToVideoPipeline)


def animatediff_controlnet() -> Any:
    """AnimateDiffControlNetPipeline, which follows frames."""
    from diffusers import AnimateDiffControlNetPipeline

    from tests.sweep.sd import sd15_controlnet

    return _animated(AnimateDiffControlNetPipeline, controlnet=sd15_controlnet().controlnet)
