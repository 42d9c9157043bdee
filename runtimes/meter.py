"""How long components take, and whether somebody asked to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from artifacts.errors import LatentcError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


@runtime_checkable
class Cancel(Protocol):
    """Whether somebody asked to stop: a `threading.Event`, or multiprocessing's."""

    def is_set(self) -> bool: ...


class Cancelled(LatentcError):
    """The work was stopped because the caller asked for it."""

    exit_code = 130


@dataclass(frozen=True)
class MethodTime:
    """How often one method of a component was called, and the seconds it took in all."""

    calls: int
    seconds: float


@dataclass(frozen=True)
class Timings:
    """Where the seconds of one `generate` went.

    Attributes:
        total: from call to images, without `opening`.
        opening: opening graphs for the first time.
        components: "unet.forward" -> its calls and seconds.
        steps: seconds of each denoising step, its components included.
    """

    total: float
    opening: float
    components: Mapping[str, MethodTime]
    steps: tuple[float, ...]


@dataclass(frozen=True)
class NotFinite:
    """A call that returned NaN or infinity.

    Attributes:
        method: "vae.decode".
        inputs_finite: whether all that it was given was finite.
        before: the first method that had returned such before the last denoising loop, or empty.
    """

    method: str
    inputs_finite: bool
    before: str


@dataclass
class Meter:
    """Collects the times of one `generate`; compiled components report to it and ask it whether to go on.

    It also looks at what components return outside of the denoising loop, which costs one pass over the pictures.
    """

    cancel: Cancel | None = None
    opening: float = 0.0
    steps: list[float] = field(default_factory=list)
    _started: float = field(default_factory=time.perf_counter)
    _step: float | None = None
    _methods: dict[str, tuple[int, float]] = field(default_factory=dict)
    _looping: bool = False
    _not_finite: dict[str, NotFinite] = field(default_factory=dict)
    _before: str = ""

    def check(self) -> None:
        """Raises Cancelled when the caller has asked for it."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("cancelled.")

    def count_call(self, method: str, call: Callable[..., T], *args: Any) -> T:
        """What ``call(*args)`` returns; it counts as a call of `method` ("unet.forward").

        Raises:
            Cancelled: the caller has asked to stop; nothing is called.
        """
        self.check()
        start = time.perf_counter()
        result = call(*args)
        elapsed = time.perf_counter() - start
        calls, seconds = self._methods.get(method, (0, 0.0))
        self._methods[method] = (calls + 1, seconds + elapsed)
        return result

    def count_opening(self, opening: Callable[..., object], *args: Any) -> None:
        """Calls ``opening(*args)``, whose time counts as opening, not as work."""
        start = time.perf_counter()
        opening(*args)
        elapsed = time.perf_counter() - start
        self.opening += elapsed
        if self._step is not None:
            self._step += elapsed

    def look(self, method: str, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """Notes whether a call's outputs are finite; inside of the denoising loop it does nothing."""
        if self._looping:
            return
        from targets.graph.finite import all_finite

        if not all(map(all_finite, outputs.values())):
            record = NotFinite(method, all(map(all_finite, inputs.values())), self._before)
            self._not_finite.setdefault(method, record)

    def take_not_finite(self) -> tuple[NotFinite, ...]:
        """The calls since the last denoising loop that returned NaN or infinity; they are forgotten then."""
        records = tuple(self._not_finite.values())
        self._not_finite.clear()
        self._before = ""
        return records

    def begin_steps(self) -> None:
        """The denoising loop starts now."""
        self._step = time.perf_counter()
        self._looping = True
        # What mattered of them is in what the loop makes of it.
        self._before = self._before or next(iter(self._not_finite), "")
        self._not_finite.clear()

    def end_steps(self) -> None:
        """The denoising loop is over; twice is harmless."""
        self._looping = False

    def end_step(self) -> None:
        """A step ended now."""
        now = time.perf_counter()
        self.steps.append(now - (self._step if self._step is not None else now))
        self._step = now

    def timings(self) -> Timings:
        """What was collected up to now."""
        total = time.perf_counter() - self._started - self.opening
        return Timings(
            total, self.opening, {k: MethodTime(*v) for k, v in self._methods.items()}, tuple(self.steps)
        )
