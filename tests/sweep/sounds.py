"""Sounds: Stable Audio and AudioLDM."""

from __future__ import annotations

from typing import Any

from tests.sweep import text
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
