"""Diffusion transformers: SD 3, FLUX, PixArt, Sana, AuraFlow, DiT, CogView 4, Chroma, Lumina 2, Qwen, Bria."""

from __future__ import annotations

from typing import Any

from tests.sweep import text
from tests.sweep.sd import autoencoder
from tests.sweep.weights import seeded


def flow_match(**changes: Any) -> Any:
    """FlowMatchEulerDiscreteScheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**changes)


def sd3() -> Any:
    """StableDiffusion3Pipeline: two CLIPs and a T5, one layer with dual attention."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = seeded(
        SD3Transformer2DModel,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=flow_match(shift=3.0),
        vae=autoencoder(quant=False, shift=0.06),
        text_encoder=text.clip_text(hidden=16, projection=16),
        tokenizer=text.clip_tokenizer(),
        text_encoder_2=text.clip_text(hidden=16, projection=16, seed=1),
        tokenizer_2=text.clip_tokenizer(pad_token="!"),
        text_encoder_3=text.t5(),
        tokenizer_3=text.t5_tokenizer(),
    )


def sd3_pag() -> Any:
    """StableDiffusion3PAGPipeline: attention processors are set for the call, and back."""
    import inspect

    from diffusers import StableDiffusion3PAGPipeline

    taken = inspect.signature(StableDiffusion3PAGPipeline.__init__).parameters
    return StableDiffusion3PAGPipeline(**{n: part for n, part in sd3().components.items() if n in taken})


def _flux_transformer(guidance: bool = True) -> Any:
    from diffusers import FluxTransformer2DModel

    return seeded(
        FluxTransformer2DModel,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )


def _flux(pipeline_class: Any, guidance: bool = True) -> Any:
    return pipeline_class(
        scheduler=flow_match(use_dynamic_shifting=True, shift=3.0),
        vae=autoencoder(quant=False, shift=0.1159),
        text_encoder=text.clip_text(),
        tokenizer=text.clip_tokenizer(),
        text_encoder_2=text.t5(),
        tokenizer_2=text.t5_tokenizer(),
        transformer=_flux_transformer(guidance),
    )


def flux() -> Any:
    """FluxPipeline as FLUX.1-dev has it, guidance distilled."""
    from diffusers import FluxPipeline

    return _flux(FluxPipeline)


def flux_schnell() -> Any:
    """FluxPipeline as FLUX.1-schnell has it, without a guidance embedding."""
    from diffusers import FluxPipeline

    return _flux(FluxPipeline, guidance=False)


def flux_kontext() -> Any:
    """FluxKontextPipeline: the image's tokens follow the latent's."""
    from diffusers import FluxKontextPipeline

    return _flux(FluxKontextPipeline)


def pixart_sigma() -> Any:
    """PixArtSigmaPipeline."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    transformer = seeded(
        PixArtTransformer2DModel,
        sample_size=16,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=32,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=text.t5_tokenizer(),
        text_encoder=text.t5(),
        vae=autoencoder(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


def sana() -> Any:
    """SanaPipeline: linear attention, AutoencoderDC, a Gemma 2 as its text encoder."""
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

    transformer = seeded(
        SanaTransformer2DModel,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=8,
    )
    vae = seeded(
        AutoencoderDC,
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 16, 16),
        decoder_block_out_channels=(8, 16, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.41407,
    )
    return SanaPipeline(
        tokenizer=text.gemma_tokenizer(),
        text_encoder=text.gemma2(),
        vae=vae,
        transformer=transformer,
        scheduler=flow_match(shift=3.0),
    )


def aura_flow() -> Any:
    """AuraFlowPipeline: joint blocks, then single ones."""
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    transformer = seeded(
        AuraFlowTransformer2DModel,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=24 * 24,
    )
    return AuraFlowPipeline(
        tokenizer=text.t5_tokenizer(),
        text_encoder=text.umt5(),
        vae=autoencoder(),
        transformer=transformer,
        scheduler=flow_match(shift=1.73),
    )


def dit() -> Any:
    """DiTPipeline: class labels, one image size."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = seeded(
        DiTTransformer2DModel,
        sample_size=16,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
    )
    return DiTPipeline(transformer=transformer, vae=autoencoder(), scheduler=DDIMScheduler(clip_sample=False))


def cogview4() -> Any:
    """CogView4Pipeline, with a GLM as its text encoder."""
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel

    transformer = seeded(
        CogView4Transformer2DModel,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=32,
        time_embed_dim=16,
        condition_dim=8,
        sample_size=16,
        rope_axes_dim=(64, 64),
    )
    return CogView4Pipeline(
        tokenizer=text.qwen_tokenizer(),
        text_encoder=text.glm(),
        vae=autoencoder(quant=False),
        transformer=transformer,
        scheduler=flow_match(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
    )


def chroma() -> Any:
    """ChromaPipeline: a distilled guidance network, masked T5 tokens."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    transformer = seeded(
        ChromaTransformer2DModel,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return ChromaPipeline(
        scheduler=flow_match(use_dynamic_shifting=True),
        vae=autoencoder(quant=False, shift=0.1159),
        text_encoder=text.t5(),
        tokenizer=text.t5_tokenizer(),
        transformer=transformer,
    )


def lumina2() -> Any:
    """Lumina2Pipeline: rotary embeddings in complex numbers, a Gemma 2."""
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = seeded(
        Lumina2Transformer2DModel,
        sample_size=16,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 64, 64),
        cap_feat_dim=32,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=flow_match(shift=6.0),
        vae=autoencoder(quant=False, shift=0.1159, levels=4),  # the pipeline counts on a factor of 8
        text_encoder=text.gemma2(),
        tokenizer=text.gemma_tokenizer(),
    )


def qwen_vae(channels: int = 4) -> Any:
    """AutoencoderKLQwenImage of three levels: latents are a quarter as high and wide as the image."""
    from diffusers import AutoencoderKLQwenImage

    return seeded(
        AutoencoderKLQwenImage,
        base_dim=8,
        z_dim=channels,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1 * i for i in range(channels)],
        latents_std=[1.0 + 0.1 * i for i in range(channels)],
    )


def qwen_image() -> Any:
    """QwenImagePipeline: rotary embeddings in complex numbers, a causal video autoencoder, Qwen 2.5 VL."""
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

    transformer = seeded(
        QwenImageTransformer2DModel,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    return QwenImagePipeline(
        scheduler=flow_match(use_dynamic_shifting=True, shift_terminal=0.02, time_shift_type="exponential"),
        vae=qwen_vae(),
        text_encoder=text.qwen25_vl(),
        tokenizer=text.qwen_tokenizer(),
        transformer=transformer,
    )


def bria() -> Any:
    """BriaPipeline: FLUX's blocks with T5 alone."""
    from diffusers import BriaPipeline, BriaTransformer2DModel

    transformer = seeded(
        BriaTransformer2DModel,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=None,
        axes_dims_rope=[4, 6, 6],
    )
    return BriaPipeline(
        transformer=transformer,
        vae=autoencoder(shift=0.0),
        scheduler=flow_match(),
        text_encoder=text.t5(),
        tokenizer=text.t5_tokenizer(),
    )
