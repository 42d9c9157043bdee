"""Many prompts drawn in batches, for measurements of quality that take no times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from runtimes.generation import Generator

BATCH = 10


def draw(pipeline: Generator, prompts: Sequence[str], guidance: float) -> tuple[Image, ...]:
    """20 steps each, picture `i` from seed `i`, in the pipeline's own batches."""
    seeds = range(len(prompts))
    return pipeline.generate(list(prompts), seed=seeds, steps=20, guidance=guidance).images


def pixels(picture: Image) -> np.ndarray:
    """float64 [height, width, 3], from 0 to 1."""
    import numpy as np

    return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
