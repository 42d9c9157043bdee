"""What one graph of an artifact takes in memory: as a whole, in tiles, and in the parts that it is cut into."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

DIVISIONS = (2, 3, 4, 6, 8, 12, 16)
"""Into how many parts a graph is cut: what crosses between is copied, and those that close are opened again."""

ENOUGH_KEPT = 0.5
"""The share of a graph from which more parts are not better: at each cut a narrow type may round otherwise than within
(Stable Diffusion 1.5's size in bf16: 5 parts draw the whole graph's picture, 16 one that is 43 dB from it)."""

CROSSING = 0.2
"""What values that cross between parts take, for each byte that a whole call takes: they lie beside what a part
computes in."""

WHOLE_VALUES = 3
"""A call in tiles takes the WHOLE_VALUES-th of a whole call: values between its stages are whole."""


@dataclass(frozen=True)
class CallSize:
    """What a call of so many elements, inputs and outputs together, takes beside the open graph, in bytes."""

    elements: int
    bytes: int


@dataclass(frozen=True)
class GraphMemory:
    """What one graph needs while it is open, in bytes of no file.

    Attributes:
        opening: at most while it is opened. opened: what remains of it.
        mapped: of files that stay mapped, which the system can drop and read again.
        calls: those that are known, the smallest first.
        largest: elements of the largest call of the plan. least: of the smallest that it can be divided into.
        measured: whether these were measured; else they are derived from file sizes and declared shapes, and what a
            graph computes within is not in them.
        cuts: for each of `DIVISIONS`, the bytes of weights of the parts that the graph's file is cut into; empty where
            they are not known, and are taken to be equal.
        inputs: of `largest`, the elements that are of inputs; 0 where there are none.
    """

    graph: str
    opening: int
    opened: int
    mapped: int
    calls: tuple[CallSize, ...]
    largest: int
    least: int
    measured: bool
    cuts: tuple[tuple[int, ...], ...] = ()
    inputs: int = 0

    def call(self, elements: int) -> int:
        """Bytes of a call: on the line through the two calls that it lies between, or through the last two; not less
        than those of the smallest that is known."""
        first, last = self.calls[0], self.calls[-1]
        if len(self.calls) == 1:
            return max(last.bytes, last.bytes * elements // max(1, last.elements))
        for before, after in itertools.pairwise(self.calls):
            if elements <= after.elements or after is last:
                slope = (after.bytes - before.bytes) / max(1, after.elements - before.elements)
                return max(first.bytes, round(before.bytes + slope * (elements - before.elements)))
        return last.bytes

    def for_call(self, inputs: int) -> GraphMemory:
        """The same for a call of inputs with so many elements, for each of which there are as many outputs."""
        return replace(self, largest=self.largest * inputs // self.inputs) if self.inputs else self

    @property
    def total(self) -> int:
        """Bytes of opening and the largest call."""
        return max(self.opening, self.opened + self.call(self.largest))

    @property
    def retained(self) -> int:
        """Bytes while it stays open after its largest call: what opening alone took is given back, a call's memory is
        kept for the next."""
        return self.opened + self.call(self.largest)

    @property
    def divided(self) -> int:
        """Bytes of opening and a call where calls are divided as far as they can be."""
        whole, least = self.call(self.largest), self.call(self.least)
        return max(self.opening, self.opened + max(least, whole // WHOLE_VALUES))

    @cached_property
    def smallest(self) -> int:
        """The same where the graph runs in parts, too; what was not measured does not."""
        if not self.measured:
            return self.divided
        return min(self.divided, *(division.bytes(self) for division in self._divisions))

    @cached_property
    def _divisions(self) -> tuple[Division, ...]:
        """The graph in parts of which none stays open."""
        cuts = self.cuts or tuple((1,) * parts for parts in DIVISIONS)
        return tuple(Division(*pair) for pair in zip(DIVISIONS, cuts, strict=True))

    def division(self, room: int) -> Division:
        """The fewest parts that can all stay open within so many bytes; else the fewest of which enough can."""
        for division in self._divisions:
            whole = division.keeping(range(len(division.weights)))
            if whole.bytes(self) <= room:
                return whole
        fullest = [division.filling(room, self) for division in self._divisions]
        fitting = [division for division in fullest if division.bytes(self) <= room]
        enough = [division for division in fitting if division.share >= ENOUGH_KEPT]
        if enough:
            return enough[0]
        if fitting:
            return max(fitting, key=lambda division: division.share)
        return min(fullest, key=lambda division: division.bytes(self))


@dataclass(frozen=True)
class Division:
    """How a graph runs in parts, one after the other within a call.

    Attributes:
        parts: of how many each has at most its share of the graph's weights: `runtimes.parts_session.cut` makes as many
            or some more.
        weights: of these, in bytes, or in any unit where they are not known.
        kept: positions of those that stay open from call to call; the others are opened one at a time.
    """

    parts: int
    weights: tuple[int, ...]
    kept: frozenset[int] = frozenset()

    def keeping(self, kept: Iterable[int]) -> Division:
        """The same with other parts that stay open."""
        return Division(self.parts, self.weights, frozenset(kept))

    def filling(self, room: int, memory: GraphMemory) -> Division:
        """The same with the first parts open that so many bytes hold."""
        division = self.keeping(())
        for position in range(len(self.weights)):
            larger = division.keeping((*division.kept, position))
            if larger.bytes(memory) <= room:
                division = larger
        return division

    @property
    def share(self) -> float:
        """Of the weights that stay open, from 0 to 1."""
        return sum(self.weights[position] for position in self.kept) / max(1, sum(self.weights))

    def opened(self, memory: GraphMemory) -> int:
        """Bytes that are open at most, beside a call."""
        return self._most(memory, memory.opened, 0)

    def bytes(self, memory: GraphMemory) -> int:
        """Bytes at most: of parts that stay open, of another that is opened or called, and of what crosses."""
        whole = memory.call(memory.largest)
        at_turns = self._most(memory, memory.opening, 0), self._most(memory, memory.opened, whole)
        return max(at_turns) + round(whole * CROSSING)

    def _most(self, memory: GraphMemory, part: int, call: int) -> int:
        """The most at any part's turn.

        Args:
            part: what the whole graph takes at its turn, of which a part takes its share. call: beside it.
        """
        total = max(1, sum(self.weights))
        kept_weight, most = 0, 0
        # A part that stays open is opened once, when those before it are open.
        for position, weight in sorted(enumerate(self.weights), key=lambda pair: pair[0] not in self.kept):
            most = max(most, memory.opened * kept_weight // total + part * weight // total + call)
            if position in self.kept:
                kept_weight += weight
        return max(most, memory.opened * kept_weight // total + call)
