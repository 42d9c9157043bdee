"""Two calls in turn, A B B A: the ratio of their times, pair by pair."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}

Call = Callable[[], "Mapping[str, np.ndarray]"]


@dataclass(frozen=True)
class Pairs:
    """Times of two calls, in turn."""

    clock: Callable[[], float]
    rounds: int

    def ratios(self, base: Call, other: Call) -> list[float]:
        """Of `other` to `base`, one for each round; the first call of each is not counted."""
        base(), other()
        ratios = []
        for number in range(self.rounds):
            order = (base, other) if number % 2 == 0 else (other, base)
            took = {call: self._time(call) for call in order}
            ratios.append(took[other] / took[base])
        return ratios

    def _time(self, call: Call) -> float:
        start = self.clock()
        call()
        return self.clock() - start
