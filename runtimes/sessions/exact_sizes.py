"""Graphs that are opened for the very sizes of their calls, where these are few.

A vendor's compiler makes more of a graph whose sizes are known: it fuses operators that it leaves apart otherwise,
computes shapes once, and lays memory out before the first call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange, TensorSpec
from runtimes.sessions.common import check_inputs, give_back
from runtimes.sessions.session_contract import Session, SessionFactory

if TYPE_CHECKING:
    import numpy as np

Shapes = Mapping[str, tuple[int, ...]]
"""Input -> its shape, of one call."""

MOST = 2
"""Sizes of calls that a graph is opened for: a picture with guidance and without. Each is a compile of its own."""


@runtime_checkable
class TakesSizes(Protocol):
    """What a session factory offers, too, whose graphs are faster for sizes that are known."""

    def sized(self, calls: tuple[Shapes, ...]) -> SessionFactory:
        """A factory for a graph that is called with these shapes alone."""


def sized(
    factory: SessionFactory, inputs: Sequence[TensorSpec], dims: Mapping[str, DimRange]
) -> SessionFactory:
    """The factory that opens a graph with these inputs for the sizes of its calls; `factory` itself where these are
    many, or where it makes no difference to it.

    Args:
        dims: ranges of the symbolic dimensions in `inputs`.
    """
    if not isinstance(factory, TakesSizes):
        return factory
    calls = calls_of(inputs, dims)
    return factory.sized(calls) if calls else factory


def calls_of(inputs: Sequence[TensorSpec], dims: Mapping[str, DimRange]) -> tuple[Shapes, ...]:
    """The shapes of all calls, the largest first; empty where there are more than `MOST`, or nothing bounds them."""
    symbols = {dim for spec in inputs for dim in spec.shape if isinstance(dim, str)}
    if not symbols <= dims.keys():
        return ()
    bounds = {symbol: (dims[symbol].min, dims[symbol].max) for symbol in sorted(symbols)}
    if math.prod(high - low + 1 for low, high in bounds.values()) > MOST:
        return ()
    calls = []
    for sizes in itertools.product(*(range(low, high + 1) for low, high in bounds.values())):
        size = dict(zip(bounds, sizes, strict=True))
        calls.append(
            {
                spec.name: tuple(dim if isinstance(dim, int) else size[dim] for dim in spec.shape)
                for spec in inputs
            }
        )
    return tuple(sorted(calls, key=_elements, reverse=True))


def _elements(call: Shapes) -> int:
    return sum(map(math.prod, call.values()))


class SizedSession:
    """A session for each of a few calls; the largest is opened at once, the others when they are called."""

    def __init__(
        self,
        calls: Sequence[Shapes],
        largest: Session,
        opened: Callable[[Shapes], Session],
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        name: str,
    ) -> None:
        """
        Args:
            calls: the largest first.
            largest: opened for the largest.
            opened: opens the graph for another of them.
            inputs, outputs: of the graph, whatever its sizes.
            name: the graph's, in messages.
        """
        self.inputs, self.outputs = inputs, outputs
        self._opened: Callable[[Shapes], Session] | None = opened
        self._name = name
        self._calls = {self._form(call): call for call in calls}
        self._sessions: dict[tuple[tuple[int, ...], ...], Session] = {self._form(calls[0]): largest}
        self.device = largest.device

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph once; see `runtimes.sessions.session_contract.Session.run`."""
        try:
            form = tuple([inputs[name].shape for name in self.inputs])
            session = self._sessions[form]
        except KeyError:
            session = self._session(inputs)
        return session.run(inputs)

    def _session(self, inputs: Mapping[str, np.ndarray]) -> Session:
        """The session for these inputs, opened now.

        Raises:
            LatentcError: they are not the graph's, or the session is closed.
        """
        if self._opened is None:
            raise LatentcError(f"the session of {self._name} is closed.")
        check_inputs(inputs, self.inputs, self._name)
        form = tuple([inputs[name].shape for name in self.inputs])
        if form not in self._calls:
            raise LatentcError(f"{self._name} is not compiled for inputs of the shapes {list(form)}.")
        self._sessions[form] = self._opened(self._calls[form])
        return self._sessions[form]

    def _form(self, call: Shapes) -> tuple[tuple[int, ...], ...]:
        return tuple(call[name] for name in self.inputs)

    def release(self) -> bool:
        """Gives back the memory that calls computed in, until the next; returns whether all could."""
        could = [give_back(session) for session in self._sessions.values()]
        return all(could)

    def close(self) -> None:
        """Frees all sessions; twice is harmless."""
        self._opened = None
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
