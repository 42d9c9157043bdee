"""How alike two pictures are: arrays [height, width, 3] with values from 0 to 1."""

from __future__ import annotations

import math

import numpy as np


def squared_error(one: np.ndarray, other: np.ndarray) -> float:
    """Mean squared error.

    Raises:
        ValueError: the pictures are not of one shape.
    """
    if one.shape != other.shape:
        raise ValueError(f"pictures of {one.shape} and {other.shape} cannot be compared")
    return float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; infinite where they are equal."""
    error = squared_error(one, other)
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity, with torchmetrics' Gaussian window of 11 pixels."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    return float(structural_similarity_index_measure(tensor(one), tensor(other), data_range=1.0))


def tensor(image: np.ndarray) -> object:
    """float32 [1, 3, height, width]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32))
