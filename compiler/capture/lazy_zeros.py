"""Zeros that take no memory until they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch


def lazy_zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A CPU tensor of zeros; the system gives it memory as it is written, where torch.zeros writes all of it."""
    memory = torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).untyped_storage()
    size = torch.Size(shape)
    stride = torch.empty(size, device="meta").stride()
    zeros: torch.Tensor = torch.empty(0, dtype=dtype).set_(memory, 0, size, stride)
    return zeros  # a view would be exported as one
