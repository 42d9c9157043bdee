"""Calls of components that are forecast instead of made, where an estimate says that little is lost by it.

It acts on what a pipeline calls once or more for each timestep: a denoiser on one batch of two or in two calls, a
ControlNet before it, two transformers of which one takes over half-way. Whether the calls of a timestep are made is
decided once, before the first of them. No component is known by its name: a scheduler's `step` ends a timestep, and
what is called for it has an input that rises or falls with the timesteps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtimes.extrapolation import POINTS, Arrays, Curve, alike, ordered
from runtimes.schedulers import schedulers_of, watching

GROWTH = 2.0
"""A forecast reaches at most this many times as far as the last two timesteps with calls are apart."""

REACH = 0.16
"""And at most over this share of the schedule: beyond it pictures fall off a cliff on some prompts."""

FEWEST = 10
"""Schedules of fewer timesteps are so coarse that none can be left out."""

_SLACK = 1 + 1e-6  # Timesteps are rounded.

Name = tuple[str, int]
"""A call of a timestep: what is called, and how often the timestep called that before."""


@dataclass(frozen=True)
class Count:
    """Timesteps of a run, and for how many of them calls were made."""

    made: int = 0
    of: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.made + other.made, self.of + other.of)

    def __str__(self) -> str:
        return f"{self.made} of {self.of}"


@dataclass(frozen=True)
class Call:
    """A call that was made.

    Attributes:
        inputs: by name.
        outputs: by name; copies, as pipelines go on in place.
        places: where the outputs themselves lie.
        constant: inputs that were the same in the timestep before.
        clocks: inputs that are one number or few, each with its values in the last timesteps.
        passed_on: whether later calls of the timestep read all of its outputs.
    """

    inputs: Arrays
    outputs: Arrays
    places: frozenset[_Place]
    clocks: Mapping[str, tuple[float, ...]]
    constant: frozenset[str] = frozenset()
    passed_on: bool = False

    @classmethod
    def of(cls, inputs: Arrays, outputs: Arrays) -> Call:
        """A call, before the timestep's others are known."""
        copies = {name: array.copy() for name, array in outputs.items()}
        places = frozenset(map(_place, outputs.values()))
        clocks = {name: (value,) for name, value in _numbers(inputs)}
        return cls(dict(inputs), copies, places, clocks)

    @property
    def timed(self) -> bool:
        """Whether an input rises or falls with the timesteps."""
        return any(len(values) == POINTS and ordered(values) for values in self.clocks.values())

    def fits(self, inputs: Arrays) -> bool:
        """Whether a call with `inputs` is the same one, a timestep later."""
        return (
            inputs.keys() == self.inputs.keys()
            and all(array.shape == self.inputs[name].shape for name, array in inputs.items())
            and all(_same(inputs[name], self.inputs[name]) for name in self.constant)
        )

    def after(self, before: Call | None) -> Call:
        """This call, with what is known of it from the call that had its place in the timestep before."""
        if before is None or self.inputs.keys() != before.inputs.keys():
            return self
        return replace(
            self,
            constant=frozenset(
                name for name, array in self.inputs.items() if _same(array, before.inputs[name])
            ),
            clocks={
                name: (*before.clocks.get(name, ()), *values)[-POINTS:]
                for name, values in self.clocks.items()
            },
        )


@dataclass(frozen=True)
class Step:
    """A timestep whose calls were made.

    Attributes:
        left_out: those that a forecast of the next timestep would not make.
        curves: of what is left out and read by others, its outputs up to now; None where they are not to be forecast.
    """

    time: float
    calls: Mapping[Name, Call]
    left_out: frozenset[Name]
    curves: Mapping[Name, Curve | None]

    @classmethod
    def of(cls, time: float, current: Mapping[Name, Call], earlier: Sequence[Step]) -> Step:
        """The timestep that made these calls, in their order.

        Args:
            earlier: timesteps that made calls, the last one last.
        """
        before = earlier[-1].calls if earlier else {}
        calls = {name: call.after(before.get(name)) for name, call in current.items()}
        left_out: set[Name] = set()
        read: set[_Place] = set()
        for name, call in reversed(calls.items()):
            if call.places and call.places <= read:
                calls[name] = call = replace(call, passed_on=True)
            if call.passed_on or call.timed:
                left_out.add(name)
                read.update(map(_place, call.inputs.values()))
        curves = {
            name: _curve(name, call, time, earlier[1 - POINTS :])
            for name, call in calls.items()
            if name in left_out and not call.passed_on
        }
        return cls(time, calls, frozenset(left_out), curves)

    def apart(self, time: float) -> float:
        """How far forecasts of two orders are apart, at the most; infinite where one cannot be made."""
        apart = [math.inf if curve is None else curve.apart(time) for curve in self.curves.values()]
        return max(apart, default=math.inf)

    def off(self, step: Step) -> float | None:
        """How far forecasts of a step that was made are off, at the most; None where one cannot be made."""
        if self.curves.keys() != step.curves.keys():
            return None
        off = 0.0
        for name, curve in self.curves.items():
            actual = step.calls[name].outputs
            if curve is None or not alike(curve.values[-1], actual):
                return None
            off = max(off, curve.off(step.time, actual))
        return off


def _curve(name: Name, call: Call, time: float, earlier: Sequence[Step]) -> Curve | None:
    """What a call returned up to now; None where it was not made in all of the timesteps, or returned other shapes."""
    calls = [*(step.calls.get(name) for step in earlier), call]
    times = [*(step.time for step in earlier), time]
    values = [entry.outputs for entry in calls if entry is not None]
    if len(values) < POINTS or not ordered(times) or not all(map(alike, values, values[1:])):
        return None
    return Curve.through(times, values)


class Schedule:
    """Which timestep comes next, by the scheduler's own list."""

    def __init__(self, totals: Callable[[], Collection[int]]) -> None:
        """
        Args:
            totals: how many timesteps pipelines say that they take, which may be fewer than the list has.
        """
        self._totals = totals
        self._times: list[float] = []
        self._at = 0
        self._done = 0

    def advance(self, scheduler: Any, timestep: Any) -> float | None:
        """The timestep that is over, as a number; None where it is not in the scheduler's list."""
        self._done += 1
        times = _floats(getattr(scheduler, "timesteps", None))
        start = self._at + 1 if times == self._times else 0
        self._times = times
        over = _floats(timestep)[:1]
        near = (i for i in range(start, len(times)) if over and _near(times[i], over[0]))
        self._at = next(near, len(times))
        return times[self._at] if self._at < len(times) else None

    @property
    def upcoming(self) -> float | None:
        """The timestep that comes; None where it is not known, and for the last, whose calls are always made.

        None in a schedule of few timesteps, too.
        """
        last = self._at + 1 >= len(self._times) - 1 or self._done + 1 in self._totals()
        return None if last or len(self._times) < FEWEST else self._times[self._at + 1]

    def reaches(self, before: float, after: float) -> bool:
        """Whether two times are near each other, as this schedule goes."""
        return abs(after - before) <= REACH * abs(self._times[-1] - self._times[0]) * _SLACK


class Forecaster:
    """One run of a pipeline: which timesteps' calls are made, and forecasts in place of the others.

    It is step-size control, as in solvers: calls are left out while the error that is estimated since the last ones
    stays within the tolerance. The estimate is how far forecasts of two orders are apart, times what that was worth
    when calls were last made. Noise that a scheduler adds shows in it, and so do steps that are far apart.
    """

    def __init__(self, tolerance: float, totals: Callable[[], Collection[int]] = lambda: ()) -> None:
        """
        Args:
            tolerance: of the estimated error, relative to the outputs; above 0.
            totals: how many timesteps pipelines say that they take.
        """
        self._tolerance = tolerance
        self._schedule = Schedule(totals)
        self._steps: deque[Step] = deque(maxlen=POINTS)
        self._calls: dict[Name, Call | None] = {}
        self._forecast: float | None = None
        self._decided = False
        self._astray = False
        self._worth = 1.0
        self._spent = 0.0
        self.count = Count()

    def call(self, method: str, inputs: Arrays, run: Callable[[], Arrays]) -> Arrays:
        """What a call returns: `run`'s outputs, or a forecast of them.

        Args:
            method: what is called, and what answers it ("unet.forward").
            inputs: what it is called with, by name.
        """
        name = (method, sum(called == method for called, _ in self._calls))
        previous = self._previous(name)
        if not self._decided and (previous is None or name in self._steps[-1].left_out):
            self._decided = True
            if previous is not None and not previous.fits(inputs):
                self._steps.clear()  # What is known is of something else: another prompt, another size.
                previous = None
            self._forecast = None if previous is None else self._decide()
        if self._forecast is not None and self._follows(name, previous, inputs):
            assert previous is not None
            self._calls[name] = None
            curve = self._steps[-1].curves.get(name)
            # Of outputs that go into calls that are left out as well, nobody reads what is in them.
            return previous.outputs if curve is None else curve.at(self._forecast)
        outputs = run()
        self._calls[name] = Call.of(inputs, outputs)
        return outputs

    def end_step(self, scheduler: Any, timestep: Any) -> None:
        """The scheduler has made its step of `timestep`: what was called since the one before is of it."""
        if not self._calls:
            return
        time = self._schedule.advance(scheduler, timestep)
        current = {name: call for name, call in self._calls.items() if call is not None}
        self.count += Count(int(self._forecast is None), 1)
        if time is None or self._astray:
            self._steps.clear()
        elif self._forecast is None:
            step = Step.of(time, current, tuple(self._steps))
            self._worth = self._measured(step)
            self._spent = 0.0
            self._steps.append(step)
        self._calls = {}
        self._forecast = None
        self._decided = self._astray = False

    def _previous(self, name: Name) -> Call | None:
        return self._steps[-1].calls.get(name) if self._steps else None

    def _follows(self, name: Name, previous: Call | None, inputs: Arrays) -> bool:
        """Whether a call of a timestep that is forecast is left out; what does not fit what is known is made."""
        if previous is not None and name not in self._steps[-1].left_out:
            return False
        if previous is not None and previous.fits(inputs):
            return True
        # A preview of the picture is no part of the timestep. A call with a timestep is, and changes what it computes.
        self._astray |= previous is not None or self._is_timed_as_known(inputs)
        return False

    def _is_timed_as_known(self, inputs: Arrays) -> bool:
        clocks = {
            name
            for left_out in self._steps[-1].left_out
            for name, values in self._steps[-1].calls[left_out].clocks.items()
            if len(values) == POINTS and ordered(values)
        }
        return any(name in clocks for name, _ in _numbers(inputs))

    def _decide(self) -> float | None:
        """The timestep that comes, where it is forecast; None where its calls are made."""
        time = self._schedule.upcoming
        times = [step.time for step in self._steps]
        if time is None or len(times) < POINTS or not ordered([*times, time]):
            return None
        if not self._schedule.reaches(times[-1], time):
            return None
        if abs(time - times[-1]) > GROWTH * abs(times[-1] - times[-2]) * _SLACK:
            return None
        spent = self._spent + self._worth * self._steps[-1].apart(time)
        if not spent <= self._tolerance:
            return None
        self._spent = spent
        return time

    def _measured(self, step: Step) -> float:
        """What the distance of two orders is worth: how far off the forecast of `step` is, for each of it."""
        times = [earlier.time for earlier in self._steps]
        if len(times) < POINTS or not ordered([*times, step.time]):
            return 1.0
        apart, off = self._steps[-1].apart(step.time), self._steps[-1].off(step)
        return off / apart if 0 < apart < math.inf and off is not None else 1.0


_Place = tuple[int, tuple[int, ...]]
"""Where an array lies in memory, and its shape."""


@contextmanager
def forecasting(pipes: Sequence[Any], tolerance: float) -> Iterator[Forecaster]:
    """A forecaster for one run of pipelines, which their schedulers tell of each step; their own classes afterwards.

    Args:
        pipes: diffusers' pipelines.
        tolerance: as `Forecaster` takes it.
    """

    def totals() -> list[int]:
        return [pipe.num_timesteps for pipe in pipes if getattr(pipe, "num_timesteps", None)]

    policy = Forecaster(tolerance, totals)
    with watching(schedulers_of(pipes), lambda scheduler, time, result: policy.end_step(scheduler, time)):
        yield policy


def _place(array: np.ndarray) -> _Place:
    return array.__array_interface__["data"][0], array.shape


def _same(array: np.ndarray, other: np.ndarray) -> bool:
    return _place(array) == _place(other) or np.array_equal(array, other)


def _numbers(inputs: Arrays) -> list[tuple[str, float]]:
    """The inputs that may be a timestep, which is one number, or one for each image or token: the largest."""
    return [
        (name, float(array.item() if array.size == 1 else array.max()))
        for name, array in inputs.items()
        if array.ndim <= 2 and array.size and array.dtype.kind in "iuf"
    ]


def _near(time: float, other: float) -> bool:
    """Whether two times are one, rounded or not."""
    return math.isclose(time, other, rel_tol=1e-5, abs_tol=1e-8)


def _floats(value: Any) -> list[float]:
    """The elements of a tensor, an array or a number; empty where it is none of them."""
    if isinstance(value, (int, float)):
        return [float(value)]
    if not hasattr(value, "tolist"):
        return []
    elements = (value if value.ndim < 2 else value.flatten()).tolist()
    return list(map(float, elements if isinstance(elements, list) else [elements]))
