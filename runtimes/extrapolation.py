"""Forecasts of a component's outputs from what it returned at earlier times, and how far off they may be.

A denoiser's output changes smoothly along the schedule. Of its last three values the line through the newest two is the
forecast; the parabola through all three says, without a call, how much the line can be trusted.
"""

from __future__ import annotations

import math
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


def alike(value: Arrays, other: Arrays) -> bool:
    """Whether two values are arrays of the same names and shapes."""
    return value.keys() == other.keys() and all(
        array.shape == other[name].shape for name, array in value.items()
    )


@dataclass(frozen=True)
class Curve:
    """The last three values of an output, each of them arrays by name.

    Distances are of rows (one image, with or without its prompt), relative to the newest value's, the largest of all
    rows and arrays. They are infinite where they are no numbers.

    Attributes:
        times: `ordered`.
        values: `alike`.
        norms: ``||row||`` of each row of the newest value's floating-point arrays.
        curvature: how far the values bend: the norm of their second divided difference, a distance over a time squared.
    """

    times: tuple[float, float, float]
    values: tuple[Arrays, Arrays, Arrays]
    norms: Mapping[str, Sequence[float]]
    curvature: float

    @classmethod
    def through(cls, times: Sequence[float], values: Sequence[Arrays]) -> Curve:
        """The curve through three values, the oldest first."""
        (t0, t1, t2), (oldest, older, newest) = times, values
        norms = {name: _norms(array) for name, array in newest.items() if _is_float(array)}
        weights = (1 / (t1 - t0), -1 / (t1 - t0) - 1 / (t2 - t1), 1 / (t2 - t1))
        bends = (
            _relative(_sum(weights, (oldest[name], older[name], newest[name])), scales)
            for name, scales in norms.items()
        )
        bend = max(bends, default=0.0) / abs(t2 - t0)
        return cls((t0, t1, t2), (oldest, older, newest), norms, bend)

    def at(self, time: float) -> dict[str, np.ndarray]:
        """The forecast for a time: ``v1 + (v1 - v0) * (t - t1) / (t1 - t0)`` of the newest two values.

        Arrays of their own, of the newest's dtypes. Those that are no floating-point numbers stay as they were last.
        """
        _, older, newest = self.values
        weights = self._line(time)
        return {
            name: _sum(weights, (older[name], array)).astype(array.dtype, copy=False)
            if _is_float(array)
            else array.copy()
            for name, array in newest.items()
        }

    def apart(self, time: float) -> float:
        """How far the line and the parabola are apart at a time."""
        _, t1, t2 = self.times
        return abs((time - t1) * (time - t2)) * self.curvature

    def off(self, time: float, actual: Arrays) -> float:
        """How far the forecast for a time is off what was returned then, which is `alike`."""
        _, older, newest = self.values
        weights = (*self._line(time), -1.0)
        errors = (
            _relative(_sum(weights, (older[name], newest[name], actual[name])), scales)
            for name, scales in self.norms.items()
        )
        return max(errors, default=0.0)

    def _line(self, time: float) -> tuple[float, float]:
        """What the newest two values count for in the forecast, the older one first."""
        _, t1, t2 = self.times
        ahead = (time - t2) / (t2 - t1)
        return -ahead, 1 + ahead


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _sum(weights: Sequence[float], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The weighted sum, in fp32 or, of arrays in fp64, in that."""
    kind = np.dtype(np.float64 if arrays[-1].dtype == np.float64 else np.float32)
    terms = (
        weight * array.astype(kind, copy=False)  # A Python number, which keeps the type.
        for weight, array in zip(weights, arrays, strict=True)
    )
    total: np.ndarray = np.asarray(next(terms))
    for term in terms:
        total += term
    return total


def _norms(array: np.ndarray) -> list[float]:
    if not array.size:
        return []
    rows = array.reshape(array.shape[0] if array.ndim > 1 else 1, -1).astype(np.float64)
    squares: list[float] = np.einsum("ij,ij->i", rows, rows).tolist()
    return [math.sqrt(square) for square in squares]


def _relative(difference: np.ndarray, scales: Sequence[float]) -> float:
    ratios = [_ratio(norm, scale) for norm, scale in zip(_norms(difference), scales, strict=True)]
    return max(ratios, default=0.0)


def _ratio(norm: float, scale: float) -> float:
    if norm == 0:
        return 0.0
    ratio = norm / scale if scale else math.inf
    return math.inf if math.isnan(ratio) else ratio
