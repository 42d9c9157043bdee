"""A graph in parts that run one after the other within a call, so that not all of its weights are open at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.manifest import GraphSpec, TensorSpec
from artifacts.resident import release
from runtimes.graph_memory import DIVISIONS
from runtimes.sessions.common import check_run, give_back
from runtimes.sessions.session_contract import GraphFormat, Session, Structure

if TYPE_CHECKING:
    import numpy as np

KEPT = 3
"""Parts that stay open from call to call where their size alone was asked for; the others are opened one at a time."""

_PRODUCTS = frozenset({"Conv", "MatMul", "Gemm", "Einsum"})
"""Operators that round what they read to the type to compute in; others may run with what makes it."""
_ANGLES = frozenset({"Sin", "Cos"})
_SHAPE = "Shape"
_SOFTMAX = "Softmax"

_SPLIT_CHAIN = 1000
"""What a cut within a chain of operators counts as, in values that cross: runtimes round less within than across."""


@dataclass(frozen=True)
class GraphPart:
    """A part of a graph: what it makes of which values, and the bytes of its weights."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: int


def cut(structure: Structure, most: int) -> tuple[GraphPart, ...]:
    """The graph in parts, cut where few values cross, and between chains of operators that run together.

    Args:
        most: bytes of weights of one part; a node that has more is a part of its own.
    """
    nodes = structure.nodes
    last_read = {name: i for i, node in enumerate(nodes) for name in node.inputs}
    last_read |= dict.fromkeys(structure.outputs, len(nodes))
    makers = {name: i for i, node in enumerate(nodes) for name in node.outputs}
    chained = _chained(structure)
    changes = [0] * (len(nodes) + 1)  # How much more crosses behind a node than behind the one before.
    for name, position in makers.items():
        if name in last_read and last_read[name] > position and name not in structure.outputs:
            cost = _SPLIT_CHAIN if name in chained else 1
            changes[position] += cost
            changes[last_read[name]] -= cost
    crossing, total = [], 0
    for change in changes[:-1]:
        total += change
        crossing.append(total)
    ends = _ends(crossing, _weights(structure), most)
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


def weights_of_cuts(structure: Structure) -> tuple[tuple[int, ...], ...]:
    """Bytes of weights of the parts that a graph is cut into, for each of `DIVISIONS`."""
    weights = structure.weight_bytes
    return tuple(
        tuple(part.weights for part in cut(structure, most_of(weights, parts))) for parts in DIVISIONS
    )


def most_of(weights: int, parts: int) -> int:
    """Bytes of weights that one of so many parts has at most."""
    return -(-weights // parts)


def _chained(structure: Structure) -> frozenset[str]:
    """Values that a runtime may compute together with what reads them.

    One node alone reads them, beside those that read their shape, and is no product or mixes values by a softmax.
    """
    reads = Counter(name for node in structure.nodes if node.kind != _SHAPE for name in node.inputs)
    shares = {name for node in structure.nodes if node.kind == _SOFTMAX for name in node.outputs}
    return frozenset(
        name
        for node in structure.nodes
        for name in node.inputs
        if reads[name] == 1
        and node.kind != _SHAPE
        and name not in structure.weights
        and (node.kind not in _PRODUCTS or name in shares)
    )


def _weights(structure: Structure) -> list[int]:
    """Bytes of weights that each node is the first to read."""
    counted: set[str] = set()
    weights = []
    for node in structure.nodes:
        fresh = {name for name in node.inputs if name in structure.weights} - counted
        counted |= fresh
        weights.append(sum(structure.weights[name] for name in fresh))
    return weights


def _ends(crossing: Sequence[int], weights: Sequence[int], most: int) -> list[int]:
    """The last node of each part."""
    ends, start, last = [], 0, len(weights) - 1
    while start <= last:
        total, best, early = 0, start, None
        for end in range(start, last + 1):
            total += weights[end]
            if end > start and total > most:
                break
            # Of equal cuts the last; one that crosses less is worth up to half of the part.
            if total * 2 >= most or end == last:
                best = min(best, end, key=lambda i: (crossing[i], -i)) if best > start else end
            elif crossing[end] < _SPLIT_CHAIN:
                early = end
        else:
            best = last
        if best == start:  # Nothing of half the size: as much as fits.
            best = max(start, end - 1)
        if crossing[best] >= _SPLIT_CHAIN and early is not None:
            best = early
        ends.append(best)
        start = best + 1
    return ends


def kept(parts: Sequence[GraphPart], most: int) -> frozenset[int]:
    """The parts that stay open from call to call: the first that have at most so many bytes of weights together."""
    chosen, total = set(), 0
    for number, part in enumerate(parts):
        if total + part.weights <= most:
            chosen.add(number)
            total += part.weights
    return frozenset(chosen)


def wide_values(structure: Structure) -> frozenset[str]:
    """Values that stay in fp32 where a graph is computed in a narrower type.

    They are what angles are computed of (`targets.openvino.stored_form.keep_angles`), and what leads to an output of
    the graph with no product between.
    """
    makers = {name: node for node in structure.nodes for name in node.outputs}
    behind: set[str] = set()  # Values that a product leads to.
    pending = list(structure.outputs)
    for node in structure.nodes:
        if node.kind in _PRODUCTS or any(name in behind for name in node.inputs):
            behind.update(node.outputs)
        elif node.kind in _ANGLES:
            pending += node.inputs
    wide: set[str] = set()
    while pending:
        name = pending.pop()
        if name in wide:
            continue
        wide.add(name)
        if name in makers and makers[name].kind not in _PRODUCTS:
            pending += makers[name].inputs
    return frozenset(wide)


class PartsSession:
    """A session of a graph in parts."""

    def __init__(
        self,
        model_file: Path,
        form: GraphFormat,
        structure: Structure,
        parts: Sequence[GraphPart],
        graph: GraphSpec,
        opened: Callable[[bytes, Collection[str]], Session],
        device: str,
        keeps: Collection[int] | None = None,
    ) -> None:
        """
        Args:
            graph: whose inputs and outputs these are.
            opened: opens a part; the names are of its inputs and outputs that may cross in the type that they are
                computed in.
            keeps: positions of the parts that stay open from call to call; None for the first `KEPT`.
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
        self._keeps = frozenset(range(KEPT) if keeps is None else keeps)
        self._narrow = {name for part in parts for name in part.inputs} - {
            *structure.inputs,
            *wide_values(structure),
        }
        self._files: tuple[bytes, ...] | None = tuple(
            form.extract(model_file, part.inputs, part.outputs) for part in parts
        )
        self._kept: dict[int, Session] = {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the parts in turn; see `runtimes.sessions.session_contract.Session.run`."""
        check_run(self._files, inputs, self.inputs, self._name)
        values: dict[str, np.ndarray] = dict(inputs)
        for number, file in enumerate(self._files or ()):
            session = self._kept.get(number) or self._opened(file, self._narrow)
            try:
                values |= session.run({name: values[name] for name in session.inputs})
            finally:
                if number in self._keeps and give_back(session):
                    self._kept[number] = session
                else:
                    session.close()
                    release()  # The next part wants what this one held in other pieces.
            later = {name for rest in self._parts[number + 1 :] for name in rest.inputs} | set(self._names)
            values = {name: array for name, array in values.items() if name in later}
        return {ours: values[name] for name, ours in self._names.items()}

    def close(self) -> None:
        """Frees the parts that are open; twice is harmless."""
        for session in self._kept.values():
            session.close()
        self._kept = {}
        self._files = None
