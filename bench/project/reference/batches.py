"""Many prompts drawn in batches, for measurements of quality that take no times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

BATCH = 10


def draw(pipeline: Any, prompts: Sequence[str], guidance: float) -> list[Image]:
    """20 steps each, picture `i` from seed `i`."""
    import torch

    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Image] = []
    for start in range(0, len(prompts), BATCH):
        group = list(prompts[start : start + BATCH])
        seeds = [torch.Generator("cpu").manual_seed(start + i) for i in range(len(group))]
        pictures += pipeline(group, num_inference_steps=20, guidance_scale=guidance, generator=seeds).images
    return pictures


def pixels(picture: Image) -> np.ndarray:
    """float64 [height, width, 3], from 0 to 1."""
    import numpy as np

    return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
