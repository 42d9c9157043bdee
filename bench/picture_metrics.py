"""How near pictures (uint8 [height, width, 3]) and videos ([frames, height, width, 3]) are to those of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.evidence import metrics as likeness
from runtimes.flaws import shown

# The weights of multi-scale SSIM's five scales (Wang, Simoncelli, Bovik 2003), and the side of its window.
MS_SSIM_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11


@dataclass(frozen=True)
class Shot:
    """One picture or video: which prompt and seed, its pixels (uint8 [height, width, 3], of a video [frames, ...]) and
    its latents (float32 [steps, ...], or None)."""

    prompt: int
    seed: int
    image: np.ndarray
    latents: np.ndarray | None


def squared_error(picture: np.ndarray, other: np.ndarray) -> float:
    """Mean squared error of two pictures, of values from 0 to 1."""
    return likeness.squared_error(picture / 255, other / 255)


def psnr(picture: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two pictures in dB; infinite where they are equal."""
    return likeness.psnr(picture / 255, other / 255)


def ssim(picture: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity."""
    return likeness.ssim(picture / 255, other / 255)


def ms_ssim(picture: np.ndarray, other: np.ndarray) -> float:
    """Multi-scale structural similarity over as many of its five scales as the picture is large enough for."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    betas = MS_SSIM_BETAS[: scales(picture.shape)]
    weights = tuple(beta / sum(betas) for beta in betas)
    similarity = multiscale_structural_similarity_index_measure(
        likeness.tensor(picture / 255),
        likeness.tensor(other / 255),
        data_range=1.0,
        betas=weights,
        normalize="relu",
    )
    return float(similarity)


def scales(shape: Sequence[int]) -> int:
    """How many scales of pictures of [..., height, width, 3] hold the window; at least one."""
    side = min(shape[-3:-1])
    return max(1, len([n for n in range(len(MS_SSIM_BETAS)) if side // 2**n >= WINDOW]))


def latent_errors(ours: np.ndarray | None, theirs: np.ndarray | None) -> np.ndarray | None:
    """The relative error after each step, float64 [steps]; None unless both are there and of one shape."""
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    return np.array([likeness.relative_error(a, b) for a, b in zip(ours, theirs, strict=True)])


def broken(shot: Shot) -> bool:
    """Whether the picture is black or of one colour, or its latents are not all finite (where they are known)."""
    finite = shot.latents is None or bool(np.isfinite(shot.latents).all())
    return not finite or shown(shot.image) is not None
