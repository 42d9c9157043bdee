"""Medians with their spread, and confidence intervals over prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bench.record import Measured, Spread

RESAMPLES = 2000


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; at least one value."""
    low, median, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75))
    return Spread(median=float(median), low=float(low), high=float(high), count=len(values))


def measured(
    groups: Sequence[Sequence[float]],
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    scale: Callable[[np.ndarray], np.ndarray] | None = None,
    worst: float | None = None,
    reason: str = "",
) -> Measured:
    """A quality and its 95 % interval, resampled over prompts.

    The seeds of one prompt are not independent, so whole prompts are drawn again, each with the mean of its
    pictures.

    Args:
        groups: for each prompt, the values of its pictures.
        statistic: of the prompts' means along the last axis; their mean when None.
        scale: what the statistic and its interval are shown on: a monotonic function.
    """
    means = np.array([np.mean(group) for group in groups], np.float64)
    take = statistic or (lambda values: np.mean(values, axis=-1))
    value = float(take(means))
    if not math.isfinite(value):
        return Measured(worst=worst, reason=reason or "its figures are not finite")
    low, high = _interval(means, take)
    if scale is not None:
        value = float(scale(np.array(value)))
        if low is not None and high is not None:
            low, high = sorted(float(scale(np.array(end))) for end in (low, high))
    return Measured(value=value, low=low, high=high, worst=worst, reason=reason)


def _interval(
    means: np.ndarray, take: Callable[[np.ndarray], np.ndarray]
) -> tuple[float | None, float | None]:
    if len(means) < 2:
        return None, None
    from scipy.stats import bootstrap

    interval = bootstrap(
        (means,),
        lambda sample, axis: take(np.moveaxis(sample, axis, -1)),
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)
