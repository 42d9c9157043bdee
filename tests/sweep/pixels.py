"""Pictures that are denoised as pixels, without an autoencoder: DeepFloyd IF and PRX."""

from __future__ import annotations

from typing import Any

from tests.sweep import flow, text
from tests.sweep.weights import seeded


def deepfloyd(name: str = "IFPipeline", **changes: Any) -> Any:
    """A pipeline of DeepFloyd IF: T5, and a UNet over pixels that predicts the variance, too."""
    import diffusers

    arguments: dict[str, Any] = {
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "norm_num_groups": 8,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "in_channels": 3,
        "out_channels": 6,
        "cross_attention_dim": 32,
        "encoder_hid_dim": 32,
        "attention_head_dim": 8,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "cross_attention_norm": "group_norm",
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
    }
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    parts: dict[str, Any] = {}
    if "Super" in name:
        parts["image_noising_scheduler"] = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    return getattr(diffusers, name)(
        tokenizer=text.t5_tokenizer(model_max_length=77),
        text_encoder=text.t5(),
        unet=seeded(diffusers.UNet2DConditionModel, **(arguments | changes)),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
        **parts,
    )


def deepfloyd_upscaler() -> Any:
    """IFSuperResolutionPipeline: a small picture beside the pixels, and its noise level."""
    return deepfloyd("IFSuperResolutionPipeline", in_channels=6, class_embed_type="timestep")


def prx_pixels() -> Any:
    """PRXPixelPipeline: a transformer predicts the clean picture itself."""
    from diffusers import PRXPixelPipeline, PRXTransformer2DModel

    transformer = seeded(
        PRXTransformer2DModel,
        patch_size=4,
        in_channels=3,
        context_in_dim=32,
        hidden_size=32,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[8, 8],
        bottleneck_size=8,
        resolution_embeds=True,
    )
    return PRXPixelPipeline(
        transformer=transformer,
        scheduler=flow.flow_match(),
        text_encoder=text.qwen3().model,
        tokenizer=text.qwen_tokenizer(),
        prompt_max_tokens=16,
    )
