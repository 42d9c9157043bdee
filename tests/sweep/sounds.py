"""Sounds: Stable Audio, ACE-Step and LongCat."""

from __future__ import annotations

from typing import Any

from tests.sweep import flow, text
from tests.sweep.weights import seeded

RATE = 16000
"""Samples a second, as the configs of decoders and vocoders say."""


def stable_audio() -> Any:
    """StableAudioPipeline: a transformer over a sound's latents, told where it starts and ends."""
    import diffusers
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    transformer = seeded(
        diffusers.StableAudioDiTModel,
        sample_size=64,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        out_channels=4,
        cross_attention_dim=8,
        time_proj_dim=8,
        global_states_input_dim=16,
        cross_attention_input_dim=8,
    )
    vae = seeded(
        diffusers.AutoencoderOobleck,
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=8,
        decoder_input_channels=4,
        audio_channels=2,
        sampling_rate=16,
    )
    scheduler = diffusers.CosineDPMSolverMultistepScheduler(
        solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
    )
    projection = seeded(
        StableAudioProjectionModel, text_encoder_dim=32, conditioning_dim=8, min_value=0, max_value=32
    )
    return diffusers.StableAudioPipeline(
        vae=vae,
        text_encoder=text.t5(),
        projection_model=projection,
        tokenizer=text.t5_tokenizer(),
        transformer=transformer,
        scheduler=scheduler,
    )


def ace_step() -> Any:
    """AceStepPipeline: words and lyrics of a song, and a timbre, packed into one sequence."""
    import diffusers
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    attention: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rope_theta": 10000.0,
        "sliding_window": 16,
    }
    transformer = seeded(
        diffusers.AceStepTransformer1DModel,
        num_hidden_layers=2,
        in_channels=24,
        audio_acoustic_hidden_dim=8,
        patch_size=2,
        **attention,
    )
    encoder = seeded(
        AceStepConditionEncoder,
        text_hidden_dim=32,
        timbre_hidden_dim=8,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
        **attention,
    )
    vae = seeded(
        diffusers.AutoencoderOobleck,
        encoder_hidden_size=8,
        downsampling_ratios=[1, 2],
        channel_multiples=[1, 2],
        decoder_channels=8,
        decoder_input_channels=8,
        audio_channels=2,
        sampling_rate=4,
    )
    return diffusers.AceStepPipeline(
        vae=vae,
        text_encoder=text.qwen3().model,
        tokenizer=text.qwen_tokenizer(),
        transformer=transformer,
        condition_encoder=encoder,
        scheduler=flow.flow_match(num_train_timesteps=1, shift=1.0),
    )


def longcat() -> Any:
    """LongCatAudioDiTPipeline: latents of the waveform itself, without a vocoder."""
    import diffusers

    transformer = seeded(
        diffusers.LongCatAudioDiTTransformer,
        dit_dim=32,
        dit_depth=2,
        dit_heads=2,
        dit_text_dim=32,
        latent_dim=8,
        text_conv=False,
    )
    vae = seeded(
        diffusers.LongCatAudioDiTVae,
        in_channels=1,
        channels=16,
        c_mults=[1, 2],
        strides=[2],
        latent_dim=8,
        encoder_latent_dim=16,
        downsampling_ratio=2,
        sample_rate=1200,
    )
    return diffusers.LongCatAudioDiTPipeline(
        vae=vae, text_encoder=text.umt5(), tokenizer=text.t5_tokenizer(), transformer=transformer
    )
