"""The fastest way to draw that keeps pictures near: ways are tried alone, then together, and verified whole.

A way is whatever makes pictures faster and may change them: another type to compute in, a number of threads, weights
and activations in 8 bits for a component, an approximation of the graphs, steps that are forecast. Each is measured by
itself; then they are put together in the order of what they gain for what they lose, and one stays where all together
still hold the gate and are faster. Where pictures take long, none is measured by itself: they are put together in the
order in which they come. What is left is verified on prompts that nothing was chosen by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from artifacts.errors import LatentcError
from artifacts.evidence_records import ForecastRun, SpeedTrial
from artifacts.progress import Event, Progress, silent
from compiler.speed_gate import Gate
from runtimes.compute import AUTO

FASTER = 1.03
"""How many times as fast a way must be: less is within what machines vary by."""
FEWER_CALLS = 1.1
"""How many times as many calls there must be as with forecasts: for these, what is made is copied and compared."""
_NOT_FASTER = "not faster"
_SLOWER = "slower"
_TOO_FAR = "too far"


COSTLY = 15.0
"""Seconds of a trial's pictures from which on no way is measured by itself."""


@dataclass(frozen=True)
class Combination:
    """How pictures are drawn, where that is not as an artifact is compiled and run by default.

    Attributes:
        compute: the type of the arithmetic, or "auto".
        threads: for one inference; None for the vendor's own number.
        recipe: component -> its part of `--quantize`.
        approximations: by name.
        tolerance: of steps that are forecast; 0 for none.
    """

    compute: str = AUTO
    threads: int | None = None
    recipe: tuple[tuple[str, str], ...] = ()
    approximations: tuple[str, ...] = ()
    tolerance: float = 0.0

    def __str__(self) -> str:
        parts = [] if self.compute == AUTO else [self.compute]
        if self.threads is not None:
            parts.append(f"{self.threads} threads")
        parts += [f"{component}={scheme}" for component, scheme in self.recipe]
        parts += self.approximations
        if self.tolerance:
            parts.append(f"forecast {self.tolerance:.3g}")
        return ", ".join(parts) or "as by default"


@dataclass(frozen=True)
class Way:
    """One way to be faster.

    Attributes:
        name: for people.
        add: puts it into a combination; None for steps that are forecast, whose tolerance is searched for.
    """

    name: str
    add: Callable[[Combination], Combination] | None

    @classmethod
    def compute(cls, kind: str) -> Way:
        """Another type of arithmetic."""
        return cls(kind, lambda combination: replace(combination, compute=kind))

    @classmethod
    def threads(cls, count: int) -> Way:
        """Another number of threads."""
        return cls(f"{count} threads", lambda combination: replace(combination, threads=count))

    @classmethod
    def quantized(cls, component: str, scheme: str) -> Way:
        """A component in a scheme."""

        def add(combination: Combination) -> Combination:
            return replace(combination, recipe=(*combination.recipe, (component, scheme)))

        return cls(f"{component}={scheme}", add)

    @classmethod
    def approximated(cls, name: str) -> Way:
        """An approximation of the graphs."""

        def add(combination: Combination) -> Combination:
            return replace(combination, approximations=(*combination.approximations, name))

        return cls(name, add)


FORECAST = Way("forecast steps", None)


class Unchanged(LatentcError):
    """A way finds nothing to change in this model."""


class NothingFaster(LatentcError):
    """Nothing that was tried draws faster. What to do about it, whoever searched knows."""


class Drawer(Protocol):
    """Draws as a combination says, beside the same prompts and seeds drawn as by default."""

    def runs(
        self, combination: Combination, prompts: Sequence[str], progress: Progress
    ) -> tuple[ForecastRun, ...]:
        """What was measured, for each scheduler and number of steps.

        Raises:
            Unchanged: the combination's last way changes nothing.
            LatentcError: it cannot be compiled or drawn.
        """

    def tolerance(self, combination: Combination, prompts: Sequence[str]) -> float:
        """The largest tolerance of forecast steps that holds the gate in this combination; 0 where none does."""

    def lower(self, tolerance: float) -> float:
        """The next smaller tolerance that is tried; 0 below the smallest."""


class SpeedSearch:
    """The fastest combination of ways that holds a gate.

    Attributes:
        trials: what was tried, in order.
        best: the fastest combination that has held so far on the prompts that are chosen by; None while none has.
    """

    def __init__(
        self,
        drawer: Drawer,
        ways: Sequence[Way],
        gate: Gate,
        tuned_on: Sequence[str],
        verified_on: Sequence[str],
        progress: Progress = silent,
        alone: bool = True,
    ) -> None:
        """
        Args:
            gate: what all that `drawer` measures is held to.
            alone: whether each way is measured by itself first.
        """
        self._drawer = drawer
        self._ways = tuple(ways)
        self._gate = gate
        self._tuned_on, self._verified_on = tuple(tuned_on), tuple(verified_on)
        self._progress = progress
        self._alone = alone
        self.trials: list[SpeedTrial] = []
        self.best: Combination | None = None
        self._speed_up = 0.0
        self._threaded: tuple[float, float] | None = (
            None  # What threads gain, by the clock and by processors.
        )

    def fastest(self) -> tuple[Combination, tuple[ForecastRun, ...]]:
        """The combination, and what was measured of it on prompts that it was not chosen by.

        Raises:
            NothingFaster: nothing is faster, whatever it holds.
            LatentcError: nothing that is faster holds; the message says how near the nearest came.
        """
        kept: list[tuple[Way, Combination]] = []
        speed_up = 1.0
        ways = self._by_worth() if self._alone else list(self._ways)
        for number, way in enumerate(ways):
            self._progress(Event("ways put together", number, len(ways)))
            combination = self._added(way, kept[-1][1] if kept else Combination())
            trial = None if combination is None else self._tried(way, combination, speed_up)
            if combination is not None and trial is not None and trial.kept:
                kept.append((way, combination))
                speed_up = trial.speed_up
        self._progress(Event("ways put together", len(ways), len(ways)))
        while kept:
            combination = kept[-1][1]
            runs = self._drawer.runs(combination, self._verified_on, self._progress)
            reason = "" if self._gate.admits(runs) else _TOO_FAR
            reason = reason or (_SLOWER if self._times_as_fast(combination, runs) < 1 else "")
            self._note("verification", combination, runs, reason)
            if not reason:
                self.best = combination
                return combination, runs
            way, _ = kept.pop()
            # Of a smaller tolerance more calls are made: it is no faster.
            nearer = way.add is None and reason == _TOO_FAR
            lower = self._drawer.lower(combination.tolerance) if nearer else 0.0
            if lower:
                kept.append((way, replace(combination, tolerance=lower)))
            self.best = kept[-1][1] if kept else None
        raise self._too_far()

    def _by_worth(self) -> list[Way]:
        """The ways that are faster alone and hold the gate, best first: what each gains for what it loses."""
        worth: dict[Way, float] = {}
        for number, way in enumerate(self._ways):
            self._progress(Event("ways tried alone", number, len(self._ways)))
            combination = self._added(way, Combination())
            trial = None if combination is None else self._tried(way, combination)
            if trial is not None and trial.kept:
                worth[way] = math.log(max(trial.speed_up, FASTER)) / 10 ** (-trial.psnr / 10)
        self._progress(Event("ways tried alone", len(self._ways), len(self._ways)))
        return sorted(worth, key=lambda way: -worth[way])

    def _added(self, way: Way, current: Combination) -> Combination | None:
        """The combination with the way; None where no forecast step holds the gate in it."""
        if way.add is not None:
            return way.add(current)
        tolerance = self._drawer.tolerance(current, self._tuned_on)
        if tolerance:
            return replace(current, tolerance=tolerance)
        self.trials.append(SpeedTrial(way=way.name, combination=str(current), reason="no tolerance holds"))
        return None

    def _tried(self, way: Way, combination: Combination, before: float = 1.0) -> SpeedTrial | None:
        """What was measured of a combination; None where it is nothing that can be measured.

        Args:
            before: how many times as fast as by default it is without the way.
        """
        earlier = next((t for t in self.trials if t.combination == str(combination) and t.kept), None)
        if earlier is not None:
            return earlier
        try:
            runs = self._drawer.runs(combination, self._tuned_on, self._progress)
        except Unchanged as nothing:
            self.trials.append(SpeedTrial(way=way.name, combination=str(combination), reason=nothing.message))
            return None
        reason = "" if self._gate.admits(runs) else _TOO_FAR
        reason = reason or ("" if self._is_faster(way, combination, runs, before) else _NOT_FASTER)
        trial = self._note(way.name, combination, runs, reason)
        if trial.kept and trial.speed_up > self._speed_up:
            self.best, self._speed_up = combination, trial.speed_up
        return trial

    def _note(
        self, way: str, combination: Combination, runs: Sequence[ForecastRun], reason: str
    ) -> SpeedTrial:
        trial = SpeedTrial(
            way=way,
            combination=str(combination),
            psnr=min(run.psnr for run in runs),
            worst_psnr=min(run.worst_psnr for run in runs),
            speed_up=self._times_as_fast(combination, runs),
            pictures=sum(run.prompts for run in runs),
            kept=not reason,
            reason=reason,
        )
        self.trials.append(trial)
        return trial

    def _too_far(self) -> LatentcError:
        measured = [trial for trial in self.trials if trial.speed_up >= FASTER and trial.reason == _TOO_FAR]
        if not measured:
            return NothingFaster(
                f"nothing that was tried draws faster than the artifact does by default ({self._names()})."
            )
        nearest = max(measured, key=self._gate.nearness)
        return LatentcError(
            f"{self._gate.min_psnr:g} dB cannot be held by what is faster: nearest is {nearest.combination}, "
            f"{nearest.speed_up:.2f} times as fast, at {nearest.psnr:.1f} dB in the mean and "
            f"{nearest.worst_psnr:.1f} in the worst.",
            "Ask for less: --min-psnr DB",
        )

    def _names(self) -> str:
        return ", ".join(way.name for way in self._ways) or "there is nothing to try"

    def _is_faster(
        self, way: Way, combination: Combination, runs: Sequence[ForecastRun], before: float
    ) -> bool:
        """Of forecast steps the calls that are made decide, unless what is spared costs more than the calls."""
        speed_up = self._times_as_fast(combination, runs)
        if way.add is None:
            fewer = sum(run.calls_made for run in runs) * FEWER_CALLS <= sum(run.calls for run in runs)
            return fewer and speed_up >= before
        if speed_up < FASTER * before or combination.threads is None or self._threaded is not None:
            return speed_up >= FASTER * before
        # What other programs took meanwhile, the clock alone does not tell: the same without the threads once more.
        without = self._drawer.runs(replace(combination, threads=None), self._tuned_on, self._progress)
        again = sum(run.seconds for run in without) / max(sum(run.seconds for run in runs), 1e-9)
        speed_up = min(speed_up, before * again)
        if speed_up < FASTER * before:
            return False
        self._threaded = speed_up, _by_processor(runs)
        return True

    def _times_as_fast(self, combination: Combination, runs: Sequence[ForecastRun]) -> float:
        """By what processors took, in which other programs have no part; with other threads beside what these gain.

        By the clock where another device computes, or threads are tried.
        """
        by_processor = _by_processor(runs)
        if by_processor and combination.threads is None:
            return by_processor
        if by_processor and self._threaded is not None and self._threaded[1]:
            speed_up, with_threads = self._threaded
            return speed_up * by_processor / with_threads
        seconds = sum(run.seconds for run in runs)
        return sum(run.seconds_unaccelerated for run in runs) / max(seconds, 1e-9)


def _by_processor(runs: Sequence[ForecastRun]) -> float:
    """Processors' seconds of pictures as by default over those of these; 0 where they are not known."""
    if not all(run.processor_seconds for run in runs):
        return 0.0
    whole = sum(run.processor_seconds_unaccelerated for run in runs)
    return whole / sum(run.processor_seconds for run in runs)
