"""Bits for each weight under a budget: the choices that buy the least error for each byte.

Every weight has options of a size and a predicted error. Of each weight only the lower convex hull is worth
having; the steps along all hulls, steepest first, make one list: its beginning is the smallest artifact, its end the
best one, and any budget is a place in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True)
class Option:
    """One way to store a weight: `scheme` as a recipe writes it, bytes, and the squared error that it adds."""

    scheme: str
    bytes: int
    error: float


@dataclass(frozen=True)
class Step:
    """An exchange of one of a weight's options for a larger one. `gain` is squared error a byte."""

    key: tuple[str, str]
    old: Option
    new: Option

    @property
    def gain(self) -> float:
        """Squared error that a byte takes away."""
        return (self.old.error - self.new.error) / (self.new.bytes - self.old.bytes)


@dataclass(frozen=True)
class Allotment:
    """What each weight (graph folder, key) gets; the sums of bytes and of predicted squared errors."""

    chosen: Mapping[tuple[str, str], Option]

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(option.bytes for option in self.chosen.values())

    @property
    def error(self) -> float:
        """Predicted, squared."""
        return sum(option.error for option in self.chosen.values())


def hull(options: Sequence[Option]) -> list[Option]:
    """The options that are best for some price of a byte, from the smallest to the best."""
    result: list[Option] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.error)):
        if result and option.error >= result[-1].error:
            continue
        # The gain of each step must fall along the hull.
        while len(result) > 1 and _gain(result[-2], option) >= _gain(result[-2], result[-1]):
            result.pop()
        result.append(option)
    return result


def _gain(old: Option, new: Option) -> float:
    return (old.error - new.error) / (new.bytes - old.bytes)


class Ladder:
    """All allotments worth having, by how many steps are taken: 0 is the smallest, `len` the best.

    Args:
        options: of each weight (graph folder, key).
        rates: by graph folder, what the errors of its weights are multiplied with to be comparable to those of other
            graphs; 1 where it is not in.
    """

    def __init__(
        self, options: Mapping[tuple[str, str], Sequence[Option]], rates: Mapping[str, float] | None = None
    ) -> None:
        rates = rates or {}
        hulls = {}
        for key, choices in options.items():
            rate = rates.get(key[0], 1.0)
            hulls[key] = hull([replace(option, error=option.error * rate) for option in choices])
        self._first = {key: choices[0] for key, choices in hulls.items()}
        self._last = {key: choices[-1] for key, choices in hulls.items()}
        steps = [Step(key, old, new) for key, choices in hulls.items() for old, new in pairwise(choices)]
        # A weight's own steps come in their order: their gains fall.
        self.steps = sorted(steps, key=lambda step: -step.gain)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def folders(self) -> tuple[str, ...]:
        """The graphs whose weights have a choice, sorted."""
        return tuple(sorted({step.key[0] for step in self.steps}))

    def at(self, count: int) -> Allotment:
        """The allotment after the first `count` steps."""
        chosen = dict(self._first)
        for step in self.steps[:count]:
            chosen[step.key] = step.new
        return Allotment(chosen)

    def only(self, folder: str) -> Allotment:
        """One graph at its smallest, all others at their best."""
        return Allotment({key: (self._first if key[0] == folder else self._last)[key] for key in self._first})

    def fill(self, size: int) -> Allotment | None:
        """The steps in their order whose weights take at most `size` bytes; one that does not fit is left out, and with
        it those of the same weight behind it. None where not even the smallest fits."""
        chosen, left, full = dict(self._first), size - Allotment(self._first).bytes, set()
        if left < 0:
            return None
        for step in self.steps:
            if step.key in full:
                continue
            more = step.new.bytes - step.old.bytes
            if more > left:
                full.add(step.key)
                continue
            chosen[step.key] = step.new
            left -= more
        return Allotment(chosen)

    def down_to(self, error: float) -> int:
        """The fewest steps whose predicted squared error is at most `error`; all of them where none is."""
        total = sum(option.error for option in self._first.values())
        for count, step in enumerate(self.steps):
            if total <= error:
                return count
            total -= step.old.error - step.new.error
        return len(self.steps)
