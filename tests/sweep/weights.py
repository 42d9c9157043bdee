"""Random weights that make a tiny model behave like a model: nothing constant, nothing exploding."""

from __future__ import annotations

import zlib
from typing import Any


def seeded(model_class: Any, config: Any = None, /, seed: int = 0, **arguments: Any) -> Any:
    """An eval-mode fp32 module of `model_class` with reproducible weights.

    Args:
        model_class: a transformers class (built from `config`) or a diffusers one (built from `arguments`).
        config: a transformers config, or None.
        seed: two modules with different seeds have different weights.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config) if config is not None else model_class(**arguments)
    randomize(model, seed)
    return model.eval().requires_grad_(False)


def randomize(model: Any, seed: int = 0) -> None:
    """Redraws every parameter in place, each from a seed of its own name.

    Matrices and kernels get unit gain (variance 1/fan_in), which also wakes the zero-initialised output
    layers and gates of diffusion transformers; vectors named "weight" (norm scales) stay near 1; all other
    vectors are small.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(noise / max(parameter[0].numel(), 1) ** 0.5)
            elif name.endswith(("weight", "scale")):
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.1 * noise)
