"""A variant's pictures against the reference's: what is said where there is nothing to compare."""

from __future__ import annotations

import numpy as np
import pytest

from bench.interleaved_run import Timed, Track, _pictures
from bench.picture_metrics import Shot
from bench.picture_quality import quality
from tests.bench.benches import subject

LATENTS = np.ones((2, 1, 4), np.float32)


def shot(prompt: int, image: np.ndarray | None = None, latents: np.ndarray | None = LATENTS) -> Shot:
    drawn = np.random.default_rng(prompt).integers(0, 255, (16, 16, 3), np.uint8)
    return Shot(prompt, 0, drawn if image is None else image, latents)


@pytest.mark.parametrize(
    "nothing",
    [
        shot(1, np.zeros((16, 16, 3), np.uint8)),
        shot(1, np.full((16, 16, 3), 70, np.uint8)),
        shot(1, latents=np.full_like(LATENTS, np.nan)),
    ],
)
def test_with_a_reference_that_shows_nothing_nothing_is_compared(nothing: Shot) -> None:
    theirs = [shot(0), nothing]
    for ours in ([shot(0), shot(1)], theirs):
        found = quality(ours, theirs, ("a", "b"))
        for figure in (found.psnr, found.ssim, found.ms_ssim, found.latent_error, found.equal, found.lpips):
            assert figure.value is None
            assert "own picture of 'b' is black, of one colour or not finite" in figure.reason
        assert found.broken.value == (0.5 if ours is theirs else 0.0)
        track = Track(subject("out"), shots=list(ours), times=[Timed(1.0, (), {})] * 2)
        first, second = _pictures(track, theirs)
        assert first.psnr == np.inf and second.psnr is None


def test_one_that_is_not_finite_is_the_worst() -> None:
    bad = LATENTS.copy()
    bad[-1] = np.nan
    found = quality([shot(0), shot(1, latents=bad), shot(2)], [shot(0), shot(1), shot(2)], ("a", "b", "c"))
    assert found.latent_error.worst is None
    assert found.broken.value == pytest.approx(1 / 3)
