"""How many elements a tensor has, where a file that others wrote says its shape."""

from __future__ import annotations

import math
from collections.abc import Collection

MAX_RANK = 64
"""Dimensions, as many as PyTorch and NumPy have. A product of a million figures takes hours."""


def element_count(shape: Collection[int]) -> int:
    """The product of the dimensions; 1 for a scalar.

    Raises:
        ValueError: there are more than `MAX_RANK`.
    """
    if len(shape) > MAX_RANK:
        raise ValueError(f"a shape has {len(shape)} dimensions; at most {MAX_RANK} can be")
    return math.prod(shape)
