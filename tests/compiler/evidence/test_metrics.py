import math

import numpy as np
import pytest

from compiler.evidence.metrics import psnr, ssim


def test_psnr():
    zero, half = np.zeros((16, 16, 3)), np.full((16, 16, 3), 0.5)
    assert psnr(zero, half) == pytest.approx(20 * math.log10(2))
    assert psnr(half, half) == math.inf
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(half, half[:8])


def test_ssim_falls_as_noise_grows():
    rng = np.random.default_rng(0)
    one = rng.random((16, 24, 3))
    found = [ssim(one, np.clip(one + rng.normal(0, noise, one.shape), 0, 1)) for noise in (0, 0.05, 0.2)]
    assert found[0] == pytest.approx(1)
    assert 0.9 < found[1] < 0.999
    assert found[2] < found[1] - 0.05
