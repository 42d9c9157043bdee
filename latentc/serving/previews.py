"""Unfinished pictures: when they are shown, and what the latents of a denoising loop stand for."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from runtimes.generate_options import parameters

if TYPE_CHECKING:
    from PIL.Image import Image

# What diffusers' pipelines of packed latents (FLUX and those made after it) ask of the method that unpacks them.
_UNPACKED_BY = ("latents", "height", "width", "vae_scale_factor")


def preview_steps(steps: int, previews: int) -> list[int]:
    """After which steps, counted from 1, unfinished pictures are shown: evenly spaced, and never the last step."""
    return sorted({steps * (i + 1) // (previews + 1) for i in range(previews)} - {0, steps})


def shows_latents(pipeline: Any) -> bool:
    """Whether `decode` understands this pipeline's latents: of an autoencoder with one scale, packed as FLUX's or not
    at all."""
    vae = getattr(pipeline, "vae", None)
    config = getattr(vae, "config", {})
    return (
        "callback_on_step_end" in parameters(pipeline)
        and hasattr(pipeline, "image_processor")
        and getattr(config, "scaling_factor", None) is not None
        and getattr(config, "latents_mean", None) is None
        and not hasattr(pipeline, "_unpack_latents_with_ids")
        and (not _packs(pipeline) or _unpacked_by(pipeline) == _UNPACKED_BY)
    )


def decode(pipeline: Any, latents: Any, size: tuple[int, int] | None = None) -> list[Image]:
    """The pictures that latents of a denoising loop stand for, as they are.

    Args:
        latents: [batch, channels, height, width], or packed, [batch, tokens, channels].
        size: width and height of the pictures, in pixels; None for the pipeline's own. Only packed latents need it.

    Returns:
        None at all for packed latents that are of another size.
    """
    if latents.ndim == 3:
        width, height = size or 2 * (pipeline.default_sample_size * pipeline.vae_scale_factor,)
        side = 2 * pipeline.vae_scale_factor
        if latents.shape[1] != (width // side) * (height // side):
            return []
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
    vae, processor = pipeline.vae, pipeline.image_processor
    unscaled = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
    decoded = vae.decode(unscaled, return_dict=False)[0]
    images: list[Image] = processor.postprocess(decoded, output_type="pil")
    return images


def _packs(pipeline: Any) -> bool:
    return hasattr(pipeline, "_unpack_latents")


def _unpacked_by(pipeline: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(pipeline._unpack_latents).parameters)
