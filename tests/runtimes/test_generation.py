"""`generate` of pipelines that are none of diffusers': what it passes them, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from runtimes.generation import Generator


class SamplesLatents:
    """Draws its noise from a generator, and that of its picture's latents from torch's own."""

    def __call__(self, prompt: Any = None, generator: Any = None) -> dict[str, Any]:
        noise = torch.rand(8, 8, 3, generator=generator) / 2 + torch.rand(8, 8, 3) / 2
        return {"images": [Image.fromarray((noise.numpy() * 255).astype(np.uint8))]}


def test_a_seed_is_that_of_noise_from_torchs_own_generator_too() -> None:
    generator = Generator(SamplesLatents(), {})
    torch.manual_seed(1)
    first = generator.generate("a circle", seed=5).images[0]
    after = torch.rand(1)
    second, other = (generator.generate("a circle", seed=seed).images[0] for seed in (5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), (
        "what the caller draws does not follow from what `generate` drew"
    )
