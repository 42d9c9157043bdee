from __future__ import annotations

import math

import numpy as np
import pytest

from bench import picture_metrics
from bench.picture_metrics import Shot


def noise(side: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def test_psnr_of_equal_and_of_shifted_pictures() -> None:
    image = noise() // 2
    assert picture_metrics.psnr(image, image) == math.inf
    # 255 / 51 = 5: 20 log10(5) = 13.98 dB.
    assert picture_metrics.psnr(image, image + 51) == pytest.approx(13.979, abs=1e-3)


def test_pictures_of_two_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        picture_metrics.psnr(noise(8), noise(16))


@pytest.mark.parametrize("measure", [picture_metrics.ssim, picture_metrics.ms_ssim])
def test_structural_similarity_is_one_for_equal_and_falls_with_noise(measure) -> None:
    image = noise()
    little = np.clip(image.astype(int) + np.random.default_rng(1).integers(-9, 9, image.shape), 0, 255)
    same, near, far = (measure(image, other) for other in (image, little.astype(np.uint8), noise(seed=2)))
    assert same == pytest.approx(1.0, abs=1e-5)
    assert same > near > far
    assert far < 0.5


@pytest.mark.parametrize(("side", "count"), [(8, 1), (11, 1), (22, 2), (64, 3), (176, 5), (512, 5)])
def test_as_many_scales_as_hold_the_window(side: int, count: int) -> None:
    assert picture_metrics.scales((side, 2 * side, 3)) == count


def test_latent_errors_are_relative_and_of_each_step() -> None:
    theirs = np.ones((3, 2, 2), np.float32)
    ours = theirs * np.array([1.0, 1.1, 0.5], np.float32)[:, None, None]
    assert picture_metrics.latent_errors(ours, theirs) == pytest.approx([0.0, 0.1, 0.5], abs=1e-6)
    assert picture_metrics.latent_errors(ours[:2], theirs) is None
    assert picture_metrics.latent_errors(None, theirs) is None
    of_zeros = picture_metrics.latent_errors(
        np.array([[0.0], [1e-9]], np.float32), np.zeros((2, 1), np.float32)
    )
    assert of_zeros is not None and of_zeros.tolist() == [0.0, np.inf]


def test_black_and_not_finite_pictures_are_broken() -> None:
    latents = np.ones((2, 4), np.float32)
    bad = latents.copy()
    bad[1, 2] = np.nan
    assert not picture_metrics.broken(Shot(0, 0, noise(), latents))
    assert not picture_metrics.broken(Shot(0, 0, noise(), None))
    assert picture_metrics.broken(Shot(0, 0, np.full((8, 8, 3), 2, np.uint8), latents))
    assert picture_metrics.broken(Shot(0, 0, np.full((8, 8, 3), 90, np.uint8), None))
    assert picture_metrics.broken(Shot(0, 0, noise(), bad))


def test_a_video_is_the_mean_of_its_frames() -> None:
    generator = np.random.default_rng(5)
    ours = generator.integers(0, 256, (3, 24, 32, 3), np.uint8)
    theirs = np.clip(ours.astype(int) + generator.integers(-9, 9, ours.shape), 0, 255).astype(np.uint8)
    pairs = [*zip(ours, theirs, strict=True)]
    for measure in (picture_metrics.squared_error, picture_metrics.ssim, picture_metrics.ms_ssim):
        assert measure(ours, theirs) == pytest.approx(np.mean([measure(*pair) for pair in pairs]), abs=1e-5)
    assert not picture_metrics.broken(picture_metrics.Shot(0, 0, ours, None))
    assert picture_metrics.broken(picture_metrics.Shot(0, 0, np.zeros_like(ours), None))
