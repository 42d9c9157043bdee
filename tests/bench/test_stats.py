from __future__ import annotations

import math

import pytest

from bench.stats import measured, spread
from compiler.evidence.metrics import decibels


def test_spread_is_the_median_and_the_quartiles() -> None:
    found = spread([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (found.median, found.low, found.high, found.count) == (3.0, 2.0, 4.0, 5)


def test_the_interval_is_of_the_prompts_and_not_of_their_pictures() -> None:
    # Within each prompt the pictures are the same: ten times as many of them tell nothing new.
    few = measured([[0.0] * 2, [1.0] * 2, [2.0] * 2, [3.0] * 2])
    many = measured([[0.0] * 20, [1.0] * 20, [2.0] * 20, [3.0] * 20])
    assert few.value == many.value == 1.5
    assert (few.low, few.high) == (many.low, many.high)
    assert few.low is not None and few.high is not None
    assert 0 < few.low < 1.5 < few.high < 3


def test_the_interval_is_the_same_each_time() -> None:
    values = [[0.1], [0.7], [0.4]]
    assert measured(values) == measured(values)


def test_one_prompt_has_no_interval() -> None:
    found = measured([[1.0, 2.0]])
    assert (found.value, found.low, found.high) == (1.5, None, None)


def test_equal_pictures_have_infinite_decibels() -> None:
    found = measured([[0.0], [0.0], [0.0]], scale=decibels)
    assert (found.value, found.low, found.high) == (math.inf, math.inf, math.inf)


def test_the_psnr_of_all_is_that_of_their_mean_error() -> None:
    found = measured([[1e-3], [1e-5]], scale=decibels)
    assert found.value == pytest.approx(-10 * math.log10((1e-3 + 1e-5) / 2))
    assert found.low is not None and found.high is not None and found.low <= found.value <= found.high


def test_what_is_not_a_number_is_not_measured() -> None:
    found = measured([[math.nan], [1.0]])
    assert found.value is None and "not finite" in found.reason
