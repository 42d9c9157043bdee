"""The two runs that the ranges of activations are measured by, on calls that were recorded.

The first takes the whole range of each, and of each channel where outliers may be divided out. The second, for those
that rounding costs too much, tries ranges that are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from compiler.quantize import int8_ranges, smoothing
from compiler.quantize.int8_ranges import Range, Site
from compiler.quantize.replay import Replayed
from compiler.quantize.smoothing import Smoothable


class Replay(Protocol):
    """Runs a tapped graph on recorded calls."""

    def __call__(
        self, tapped: ir.Model, name: str, activity: str, among: Sequence[int] | None = None
    ) -> Replayed:
        """
        Args:
            name: of the run, in file names. activity: what is done, for people.
            among: numbers of the calls; None for all.
        """


@dataclass(frozen=True)
class FirstRun:
    """What the first run measured.

    Attributes:
        taps: float32 [calls, sites * 3], of activations that are divided by `factors` already.
        calls: their numbers.
        factors: of each activation that a norm makes, what its channels are divided by; None for nothing.
    """

    taps: np.ndarray
    calls: tuple[int, ...]
    factors: tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class SecondRun:
    """The range of each site, and the number of calls on which some were cut; 0 where none needed it."""

    ranges: tuple[Range, ...]
    calls: int


def first_run(
    model: ir.Model,
    sites: Sequence[Site],
    groups: Sequence[Smoothable],
    top: Callable[[str], int],
    replay: Replay,
) -> FirstRun:
    """Ranges of all sites, and the factors of those that can be smoothed.

    Args:
        top: a weight's key -> the largest whole number of its type.
    """
    tapped = int8_ranges.tap(model, sites, by_channel=[group.site.value for group in groups])
    replayed = replay(tapped, "first", "measuring activations")
    taps, channels = np.split(replayed.taps, [3 * len(sites)], axis=1)
    if not groups:
        return FirstRun(taps, replayed.calls, ())
    factors = tuple(
        smoothing.factors(group, group_channels, top(group.weights[0].key))
        for group, group_channels in zip(groups, smoothing.channels(groups, channels), strict=True)
    )
    by_site = taps.reshape(len(taps), -1, 3)
    by_site[:, [sites.index(group.site) for group in groups]] = smoothing.smoothed(groups, channels, factors)
    return FirstRun(by_site.reshape(taps.shape), replayed.calls, factors)


def second_run(
    model: ir.Model, sites: Sequence[Site], first: FirstRun, symmetric: bool, replay: Replay
) -> SecondRun:
    """Ranges, those with outliers cut where that is better.

    Args:
        model: with the factors of `first` folded into it.
        symmetric: ranges have zero in their middle.
    """
    ranges = int8_ranges.first_ranges(first.taps, symmetric)
    hard = int8_ranges.outliers(ranges)
    if not hard:
        return SecondRun(tuple(ranges), 0)
    some = [ranges[i] for i in hard]
    tapped = int8_ranges.tap(model, [sites[i] for i in hard], some)
    replayed = replay(tapped, "second", "measuring cut activations", first.calls)
    rows = [first.calls.index(call) for call in replayed.calls]
    columns = [3 * i + k for i in hard for k in range(3)]
    better = int8_ranges.second_ranges(some, first.taps[np.ix_(rows, columns)], replayed.taps)
    for i, improved in zip(hard, better, strict=True):
        ranges[i] = improved
    return SecondRun(tuple(ranges), len(replayed.calls))
