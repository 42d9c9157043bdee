"""A graph in parts that run one after the other within a call, so that not all of its weights are open at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.manifest import GraphSpec, TensorSpec
from runtimes.sessions.common import check_run
from runtimes.sessions.session_contract import GraphFormat, Session, Structure

if TYPE_CHECKING:
    import numpy as np

KEPT = 3
"""Parts that stay open from call to call; the others are opened one at a time."""


@dataclass(frozen=True)
class GraphPart:
    """A part of a graph: what it makes of which values, and the bytes of its weights."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: int


def cut(structure: Structure, most: int) -> tuple[GraphPart, ...]:
    """The graph in parts, cut where few values cross.

    Args:
        most: bytes of weights of one part; a node that has more is a part of its own.
    """
    nodes = structure.nodes
    last_read = {name: i for i, node in enumerate(nodes) for name in node.inputs}
    last_read |= dict.fromkeys(structure.outputs, len(nodes))
    makers = {name: i for i, node in enumerate(nodes) for name in node.outputs}
    made: list[int] = [0] * (len(nodes) + 1)  # How many values begin to cross behind a node, and cease to.
    for name, position in makers.items():
        if name in last_read and last_read[name] > position and name not in structure.outputs:
            made[position] += 1
            made[last_read[name]] -= 1
    crossing, open_values = [], 0
    for change in made[:-1]:
        open_values += change
        crossing.append(open_values)
    counted: set[str] = set()
    weights = []
    for node in nodes:
        fresh = {name for name in node.inputs if name in structure.weights} - counted
        counted |= fresh
        weights.append(sum(structure.weights[name] for name in fresh))
    ends, start = [], 0
    while start < len(nodes):
        total, best = 0, start
        for end in range(start, len(nodes)):
            total += weights[end]
            if end > start and total > most:
                break
            # Of equal cuts the last; one that crosses less is worth up to half of the part.
            if total * 2 >= most or end == len(nodes) - 1:
                best = min(best, end, key=lambda i: (crossing[i], -i)) if best > start else end
        else:
            best = len(nodes) - 1
        if best == start:  # Nothing of half the size: as much as fits.
            best = max(start, end - 1)
        ends.append(best)
        start = best + 1
    parts, start = [], 0
    for end in ends:
        inside = range(start, end + 1)
        values = {name for i in inside for name in nodes[i].outputs}
        read = dict.fromkeys(
            name
            for i in inside
            for name in nodes[i].inputs
            if name not in values and (name in makers or name in structure.inputs)
        )
        outputs = [
            name
            for i in inside
            for name in nodes[i].outputs
            if last_read.get(name, -1) > end or name in structure.outputs
        ]
        own = {name for i in inside for name in nodes[i].inputs if name in structure.weights}
        parts.append(GraphPart(tuple(read), tuple(outputs), sum(structure.weights[name] for name in own)))
        start = end + 1
    return tuple(parts)


class PartsSession:
    """A session of a graph in parts."""

    def __init__(
        self,
        model_file: Path,
        form: GraphFormat,
        structure: Structure,
        parts: Sequence[GraphPart],
        graph: GraphSpec,
        opened: Callable[[bytes], Session],
        device: str,
    ) -> None:
        """
        Args:
            graph: whose inputs and outputs these are.
            opened: opens a part.
        """
        self.device = device
        self.inputs: Mapping[str, TensorSpec] = {
            spec.name: spec for spec in graph.inputs if spec.name in structure.inputs
        }
        self.outputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in graph.outputs}
        # A file may have further names for its outputs, in the order of the graph's.
        self._names = dict(zip(structure.outputs, self.outputs, strict=False))
        self._name = graph.folder
        self._opened = opened
        self._parts = tuple(parts)
        self._files: tuple[bytes, ...] | None = tuple(
            form.extract(model_file, part.inputs, part.outputs) for part in parts
        )
        self._kept: dict[int, Session] = {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the parts in turn; see `runtimes.sessions.session_contract.Session.run`."""
        check_run(self._files, inputs, self.inputs, self._name)
        values: dict[str, np.ndarray] = dict(inputs)
        for number, file in enumerate(self._files or ()):
            session = self._kept.get(number) or self._opened(file)
            try:
                values |= session.run({name: values[name] for name in session.inputs})
            finally:
                if number < KEPT:
                    self._kept[number] = session
                else:
                    session.close()
            later = {name for rest in self._parts[number + 1 :] for name in rest.inputs} | set(self._names)
            values = {name: array for name, array in values.items() if name in later}
        return {ours: values[name] for name, ours in self._names.items()}

    def close(self) -> None:
        """Frees the parts that are open; twice is harmless."""
        for session in self._kept.values():
            session.close()
        self._kept = {}
        self._files = None
