"""Forecasts of a component's outputs from what it returned at earlier times, and how far off they may be.

A denoiser's output changes smoothly along the schedule. Of its last three values the line through the newest two is the
forecast; the parabola through all three says, without a call, how much the line can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

POINTS = 3
"""How many values an estimated forecast takes."""

Arrays = Mapping[str, np.ndarray]


def ordered(times: Sequence[float]) -> bool:
    """Whether the times rise or fall strictly."""
    steps = [after - before for before, after in pairwise(times)]
    return all(step > 0 for step in steps) or all(step < 0 for step in steps)


@dataclass(frozen=True)
class Weights:
    """What the last three values count for at a time.

    Attributes:
        line: of the newest two, the older one first: ``v1 + (v1 - v0) * (t - t1) / (t1 - t0)``.
        spread: of all three, the oldest first: the parabola through them less the line.
    """

    line: tuple[float, float]
    spread: tuple[float, float, float]

    @classmethod
    def at(cls, time: float, times: Sequence[float]) -> Weights:
        """The weights for `time`, from the three times of the values, which are `ordered`."""
        t0, t1, t2 = times
        ahead = (time - t2) / (t2 - t1)
        # What a second divided difference adds to the line.
        bend = (time - t1) * (time - t2) / (t2 - t0)
        newest, older = bend / (t2 - t1), bend / (t1 - t0)
        return cls((-ahead, 1 + ahead), (older, -older - newest, newest))


def line(weights: Weights, values: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """The forecast from the last three values, by the outputs' names; arrays of their own, of the newest's dtypes.

    Outputs that are no floating-point numbers stay as they were last.
    """
    _, older, newest = values
    return {
        name: _sum(weights.line, (older[name], array)).astype(array.dtype)
        if _is_float(array)
        else array.copy()
        for name, array in newest.items()
    }


def spread(weights: Weights, values: Sequence[Arrays]) -> float:
    """How far the two forecasts are apart: the largest of any row of any output, relative to the newest value."""
    newest = values[-1]
    return max(
        (
            _relative(_sum(weights.spread, [value[name] for value in values]), array)
            for name, array in newest.items()
            if _is_float(array)
        ),
        default=0.0,
    )


def error(forecast: Arrays, actual: Arrays, scale: Arrays) -> float:
    """How far a forecast was off, in the measure of `spread`: the largest difference, relative to `scale`."""
    return max(
        (
            _relative(_sum((1.0, -1.0), (forecast[name], array)), scale[name])
            for name, array in actual.items()
            if _is_float(array)
        ),
        default=0.0,
    )


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _sum(weights: Sequence[float], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The weighted sum, in fp32 or, of arrays in fp64, in that."""
    kind = np.dtype(np.float64 if arrays[-1].dtype == np.float64 else np.float32)
    total: np.ndarray = np.zeros(arrays[0].shape, kind)
    for weight, array in zip(weights, arrays, strict=True):
        total += weight * array.astype(kind, copy=False)  # A Python number, which keeps the type.
    return total


def _relative(difference: np.ndarray, scale: np.ndarray) -> float:
    """The largest ``||difference|| / ||scale||`` of any row (one image, with or without its prompt)."""
    rows = difference.shape[0] if difference.ndim > 1 else 1
    norms = np.linalg.norm(difference.reshape(rows, -1).astype(np.float64), axis=1)
    scales = np.linalg.norm(scale.reshape(rows, -1).astype(np.float64), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(norms == 0, 0.0, norms / scales)
    worst = float(np.max(ratios, initial=0.0))
    return worst if worst == worst else float("inf")
