import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.evidence.metrics import psnr, relative_error, ssim, undefined

NAN, INF = float("nan"), float("inf")


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-6, 10), st.integers(0, 99))
def test_it_is_the_size_of_the_difference(scale, seed):
    reference = np.random.default_rng(seed).standard_normal((3, 5)).astype(np.float64)
    assert relative_error(reference * (1 + scale), reference) == pytest.approx(scale)
    assert relative_error(reference, reference) == 0.0


def test_it_is_computed_in_float64():
    reference = np.full(10_000, 300, np.float16)  # its square is beyond float16
    assert relative_error(reference * np.float16(1.5), reference) == pytest.approx(0.5)
    assert relative_error(np.array([5]), np.array([4])) == 0.25
    assert relative_error(np.array([True, False]), np.array([True, True])) == pytest.approx(2**-0.5)


def test_nothing_but_zeros_is_near_to_zeros():
    assert relative_error(np.array([3.0, 4.0]), np.zeros(2)) == INF
    assert relative_error(np.array([0.0, 1e-9]), np.zeros(2)) == INF
    assert relative_error(np.zeros(2), np.zeros(2)) == 0.0


@pytest.mark.parametrize(
    ("out", "reference"),
    [
        ([1.0, NAN], [1.0, 2.0]),
        ([1.0, INF], [1.0, 2.0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        (1.0, [1.0]),
        ([1.0, NAN], [1.0, NAN]),
        ([1.0, 7.0], [1.0, NAN]),
        ([INF, INF], [INF, INF]),
        ([1.0, 7.0], [1.0, -INF]),
        ([1.0, INF], [1.0, -INF]),
        ([1.0, NAN], [1.0, -INF]),
        ([], []),
    ],
)
def test_it_is_nan_for_what_is_not_finite_or_of_another_shape_and_where_nothing_can_be_compared(
    out, reference
):
    assert np.isnan(relative_error(np.array(out), np.array(reference)))


def test_infinities_that_pytorch_gives_too_are_no_error():
    assert relative_error(np.array([1.0, -INF]), np.array([1.0, -INF])) == 0.0
    assert relative_error(np.array([2.0, -INF]), np.array([1.0, -INF])) == 1.0


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ([], "holds no element"),
        ([[1.0, 2.0], [1.0, NAN]], "holds NaN"),
        ([INF, -INF], "holds no finite number"),
        ([1.0, INF], "holds infinity"),
        ([1.0, -INF], "holds infinity"),
        ([0.0, INF], "holds infinity"),
        ([0.0, -INF], ""),
        ([0.0, 1e38], ""),
    ],
)
def test_what_is_no_reference_says_why(reference, why):
    assert undefined(np.array(reference)).startswith(why) and bool(undefined(np.array(reference))) == bool(
        why
    )


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
