"""How alike arrays are, and how alike pictures are: arrays [height, width, 3] with values from 0 to 1.

A video is an array of its frames, [frames, height, width, 3]; what is said of it is the mean of them.
"""

from __future__ import annotations

import numpy as np


def relative_error(out: np.ndarray, reference: np.ndarray) -> float:
    """``||out - reference|| / ||reference||`` over the reference's finite elements, in float64.

    Infinities of the reference (a mask's) must be in `out`, in the same places and of the same signs. Of a reference of
    zeros the error is infinite, unless `out` is zero too.

    Returns:
        The error; NaN when shapes differ, when `out` is not finite where the reference is or the other way around, and
        when there is nothing to compare with (see `comparable`).
    """
    if out.shape != reference.shape or not comparable(reference):
        return float("nan")
    finite = np.isfinite(reference)
    if not np.isfinite(out[finite]).all() or not np.array_equal(out[~finite], reference[~finite]):
        return float("nan")
    a, b = out[finite].astype(np.float64), reference[finite].astype(np.float64)
    norm = float(np.linalg.norm(b))
    distance = float(np.linalg.norm(a - b))
    if norm == 0:
        return 0.0 if distance == 0 else float("inf")
    return distance / norm


def comparable(reference: np.ndarray) -> bool:
    """Whether a reference holds a number, and no NaN."""
    return bool(reference.size and np.isfinite(reference).any() and not np.isnan(reference).any())


def undefined(reference: np.ndarray) -> str:
    """Why a component's output is no reference ("holds NaN ..."); empty when it is one.

    An additive mask, of zeros and negative infinity, is one; any other infinity is a number that overflowed, and the
    rest of the output says nothing of it.
    """
    if reference.size == 0:
        return "holds no element"
    if np.isnan(reference).any():
        return "holds NaN: the model's own weights or outputs are not finite"
    finite = np.isfinite(reference)
    if not finite.any():
        return "holds no finite number: the model's own weights or outputs are not finite"
    if not finite.all() and not ((reference[finite] == 0).all() and (reference[~finite] == -np.inf).all()):
        return "holds infinity: the model's own weights or outputs are not finite"
    return ""


def squared_error(picture: np.ndarray, other: np.ndarray) -> float:
    """Mean squared error.

    Raises:
        ValueError: the pictures are not of one shape.
    """
    if picture.shape != other.shape:
        raise ValueError(f"pictures of {picture.shape} and {other.shape} cannot be compared")
    return float(np.mean((picture.astype(np.float64) - other.astype(np.float64)) ** 2))


def psnr(picture: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; infinite where they are equal."""
    return float(decibels(np.array(squared_error(picture, other))))


def decibels(error: np.ndarray) -> np.ndarray:
    """PSNR of mean squared errors of values from 0 to 1; infinite for none."""
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(error))


def ssim(picture: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity, with torchmetrics' Gaussian window of 11 pixels."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    return float(structural_similarity_index_measure(tensor(picture), tensor(other), data_range=1.0))


def tensor(image: np.ndarray) -> object:
    """float32 [frames, 3, height, width]; a picture is one frame."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(frames(image).transpose(0, 3, 1, 2), dtype=np.float32))


def frames(image: np.ndarray) -> np.ndarray:
    """A picture or a video as [frames, height, width, 3]."""
    return image.reshape(-1, *image.shape[-3:])
