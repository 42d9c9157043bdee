"""Where an error begins: values are measured a few at a time, and the graph narrowed until one node is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compiler.evidence.dataflow import Dataflow

FEW = 8
"""Values that are measured in one run. All of a large graph's would not fit into memory."""

JUMP = 4.0
"""How many times an error grows in a node that makes one. Rounding in one type adds up, and grows more slowly."""

_LEAST = 1e-6
"""Relative error that is rounding in fp32: below it nothing is searched for."""

_ROUNDS = 6

_GROWTH = 50.0
"""How many times an error may grow behind the node that makes it, on its way to the limit."""


@dataclass(frozen=True)
class Measured:
    """One value beside its reference.

    Attributes:
        error: relative, NaN where it is not finite, or its shape is another.
        peak: largest magnitude of the reference.
        finite: whether the value itself is.
    """

    error: float
    peak: float
    finite: bool = True


Measure = Callable[[Sequence[str]], Mapping[str, Measured]]
"""Measures values by name, in one run. Those that cannot be compared are not in the answer."""


@dataclass(frozen=True)
class Beginning:
    """Where an error begins.

    Attributes:
        value: the first value beyond the limit.
        before: the largest error of what it is computed from; None where that is nothing, or cannot be compared.
        between: values that cannot be compared, between those and `value`: their nodes may be meant, too.
    """

    value: str
    measured: Measured
    before: float | None
    between: tuple[str, ...]


def beyond(error: float, limit: float) -> bool:
    """Whether an error is over its limit; NaN is."""
    return not error <= limit


def locate(
    graph: Dataflow, output: str, comparable: frozenset[str], measure: Measure, limit: float
) -> Beginning:
    """The first value, on the way to `output`, whose error is beyond `limit`.

    Where the error of what that is computed from is hardly smaller, it did not begin there: then the first value
    beyond that smaller error is the answer, if the error jumps there.

    Args:
        output: a value that is beyond the limit.
        comparable: values that `measure` may be asked for.
    """
    search = _Search(graph, comparable | {output}, measure)
    first = best = search.first(output, limit)
    for _ in range(_ROUNDS):
        if best.before is None or best.before < _LEAST or _jumps(best):
            break
        sources, _between = graph.nearest(best.value, search.comparable)
        worst = max(sources, key=lambda name: search.error(name))
        best = search.first(worst, limit if best.before != best.before else max(best.before / JUMP, _LEAST))
    return best if _jumps(best) and beyond(best.measured.error, limit / _GROWTH) else first


def _jumps(beginning: Beginning) -> bool:
    return beginning.before is None or beyond(beginning.measured.error, JUMP * beginning.before)


class _Search:
    def __init__(self, graph: Dataflow, comparable: frozenset[str], measure: Measure) -> None:
        self._graph, self._measure = graph, measure
        self.comparable = comparable
        self._known: dict[str, Measured] = {}

    def error(self, value: str) -> float:
        """For sorting: what is not finite is the largest."""
        measured = self._known.get(value)
        if measured is None:
            return -1.0
        return measured.error if measured.error == measured.error else float("inf")

    def _ask(self, values: Sequence[str]) -> None:
        """Measures what is not known yet; what cannot be compared leaves `comparable`."""
        values = [value for value in values if value not in self._known and value in self.comparable]
        for start in range(0, len(values), FEW):
            batch = values[start : start + FEW]
            measured = self._measure(batch)
            self._known |= measured
            self.comparable -= frozenset(batch) - measured.keys()

    def first(self, output: str, limit: float) -> Beginning:
        """The first value beyond `limit` among those that lead to `output`, which is beyond it."""
        graph = self._graph
        self._ask([output])
        worst = output
        candidates = graph.ancestors([output]) & self.comparable
        while candidates := candidates & self.comparable:
            ordered = sorted(candidates, key=graph.places.__getitem__)
            probes = _spread(ordered, FEW)
            self._ask(probes)
            measured = [value for value in probes if value in self._known]
            wrong = [value for value in measured if beyond(self._known[value].error, limit)]
            right = [value for value in measured if value not in wrong]
            candidates -= frozenset(probes)
            if wrong:
                worst = wrong[0]
                candidates &= graph.ancestors([worst])
            # What right values follow from is taken to be right.
            candidates -= graph.ancestors(right)
        sources, between = self._sources(worst)
        errors = [self._known[value].error for value in sources]
        before = None if not errors else float("nan") if any(e != e for e in errors) else max(errors)
        return Beginning(worst, self._known[worst], before, between)

    def _sources(self, value: str) -> tuple[list[str], tuple[str, ...]]:
        """What a value is computed from, measured, and what lies between."""
        while True:
            ends, between = self._graph.nearest(value, self.comparable)
            self._ask(sorted(ends, key=self._graph.places.__getitem__))
            if ends <= self.comparable:
                order = self._graph.places.__getitem__
                return sorted(ends, key=order), tuple(sorted(between, key=order))


def _spread(values: Sequence[str], count: int) -> list[str]:
    """`count` of the values at equal distances, the last among them."""
    if len(values) <= count:
        return list(values)
    return [values[(number + 1) * len(values) // count - 1] for number in range(count)]
