"""Whether an artifact's graphs fit in memory, and which stay open: a budget, and what each graph is taken to need."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import MemoryUse
from artifacts.manifest import GraphRecord, Manifest, TensorSpec
from artifacts.units import parse_bytes, size
from runtimes.generate_options import check_range
from runtimes.tiles import Scaling, scaling_of

MOST_PARTS = 16
"""Parts that a graph is cut into at most: what crosses between is copied, and those that close are opened again."""

ENOUGH_KEPT = 0.5
"""The share of a graph from which more parts are not better: at each cut a narrow type may round otherwise than within
(Stable Diffusion 1.5's size in bf16: 5 parts draw the whole graph's picture, 16 one that is 43 dB from it)."""

PARTS_CALL = 1.2
"""What a call takes in parts, for each byte that it takes whole: values that cross lie beside what a part keeps."""

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
    """

    graph: str
    opening: int
    opened: int
    mapped: int
    calls: tuple[CallSize, ...]
    largest: int
    least: int
    measured: bool

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

    @property
    def total(self) -> int:
        """Bytes of opening and the largest call."""
        return max(self.opening, self.opened + self.call(self.largest))

    @property
    def divided(self) -> int:
        """The same where calls are divided as far as they can be."""
        whole, least = self.call(self.largest), self.call(self.least)
        return max(self.opening, self.opened + max(least, whole // WHOLE_VALUES))

    @property
    def smallest(self) -> int:
        """The same where the graph runs in parts, too; what was not measured does not."""
        in_parts = self.opening // MOST_PARTS + round(self.call(self.largest) * PARTS_CALL)
        return min(self.divided, in_parts) if self.measured else self.divided

    def division(self, room: int) -> Division:
        """The fewest parts that can all stay open within so many bytes; else the fewest of which enough can."""
        left = room - round(self.call(self.largest) * PARTS_CALL)
        for parts in range(2, MOST_PARTS + 1):
            if (self.opened * (parts - 1) + self.opening) // parts <= left:
                return Division(parts, 1.0)
        # All that opening takes beyond what is left of it is of one part at a time.
        for parts in range(2, MOST_PARTS + 1):
            most = (left - self.opening // parts) / max(1, self.opened)
            if most >= ENOUGH_KEPT:
                break
        return Division(parts, min(1.0, max(0.0, most)))


@dataclass(frozen=True)
class Division:
    """How a graph runs in parts.

    Attributes:
        parts: how many of equal weights. kept: the share of the weights that stays open from call to call; the other
            parts are opened one at a time.
    """

    parts: int
    kept: float

    def opened(self, memory: GraphMemory) -> int:
        """Bytes that are open at most, beside a call; a part stays open whole or not at all."""
        if self.kept >= 1:
            return memory.opened
        whole = math.floor(self.kept * self.parts)
        return memory.opened * whole // self.parts + memory.opening // self.parts


@dataclass(frozen=True)
class Way:
    """One way of drawing, and what a process takes at most that draws so."""

    text: str
    bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """Which graphs may be open at once.

    Attributes:
        graphs: what each needs, by its folder, in the order of their first calls.
        budget: bytes; None for no limit.
        process: bytes that the process takes beside its graphs, of the budget; 0 where that is of graphs alone.
    """

    graphs: Mapping[str, GraphMemory]
    budget: int | None
    process: int = 0

    @property
    def ways(self) -> tuple[Way, ...]:
        """What can be done, the fastest first."""
        graphs = list(self.graphs.values())
        if not graphs:
            return ()
        totals = [graph.total for graph in graphs]
        largest = totals.index(max(totals))
        before, after = sum(totals[:largest]), sum(totals[largest:])
        ways = [
            Way("all graphs stay open", sum(totals)),
            Way(
                f"what is called before {graphs[largest].graph} is closed before that opens",
                max(before, after),
            ),
            Way(
                "a graph is closed when another needs its memory, the least recently used first", max(totals)
            ),
            Way("one graph at a time, pictures in tiles", max(graph.divided for graph in graphs)),
            Way("one graph at a time, in parts, pictures in tiles", max(graph.smallest for graph in graphs)),
        ]
        return tuple(Way(way.text, way.bytes + self.process) for way in ways)

    @property
    def way(self) -> Way | None:
        """The first that fits the budget; None where none does."""
        return next((way for way in self.ways if self.budget is None or way.bytes <= self.budget), None)

    @property
    def taken(self) -> int | None:
        """Bytes that a process takes that follows the plan: more than its way's least where more parts stay open."""
        if self.way is None:
            return None
        divided = [0]
        for folder, memory in self.graphs.items():
            division = self.division(folder)
            if division is not None:
                call = round(memory.call(memory.largest) * PARTS_CALL)
                divided.append(self.process + division.opened(memory) + call)
        return max(self.way.bytes, *divided)

    @property
    def together(self) -> int:
        """Bytes of all graphs open."""
        return sum(graph.total for graph in self.graphs.values()) + self.process

    @property
    def smallest(self) -> int:
        """The smallest budget."""
        return max((graph.smallest for graph in self.graphs.values()), default=0) + self.process

    @property
    def measured(self) -> bool:
        """Whether all of it was measured."""
        return all(graph.measured for graph in self.graphs.values())

    @property
    def text(self) -> str:
        """What is done, for people."""
        way = self.way
        if way is not None or not self.graphs:
            return "all graphs stay open" if way is None else way.text
        return "the largest graph does not fit"

    def check(self) -> None:
        """Raises LatentcError where nothing fits the budget."""
        if self.budget is None or self.smallest <= self.budget:
            return
        largest = max(self.graphs.values(), key=lambda graph: graph.smallest)
        how = "as measured when it was compiled" if largest.measured else "by the size of its files"
        beside = f", and the process {size(self.process)}" if self.process else ""
        raise LatentcError(
            f"the graph '{largest.graph}' needs at least {size(largest.smallest)} of memory, {how}{beside}; "
            f"the budget is {size(self.budget)}.",
            f"The smallest that holds one graph at a time: --memory {-(-self.smallest // 10**6)}M. "
            "Or compile the model with fewer bits: --quantize int8",
        )

    def to_close(self, graph: str, opened: tuple[str, ...]) -> tuple[str, ...]:
        """The graphs to close before `graph` is opened.

        Args:
            opened: folders of those that are open, the least recently used first.
        """
        if self.budget is None:
            return ()
        over = self.process + sum(self.graphs[folder].total for folder in (graph, *opened)) - self.budget
        closed = []
        for folder in opened:
            if over <= 0:
                break
            closed.append(folder)
            over -= self.graphs[folder].total
        return tuple(closed)

    def room(self, graph: str) -> int | None:
        """Bytes that a call of the graph may take where no other is open; None for any."""
        if self.budget is None:
            return None
        memory, division = self.graphs[graph], self.division(graph)
        return self.budget - self.process - (memory.opened if division is None else division.opened(memory))

    def division(self, graph: str) -> Division | None:
        """How the graph runs in parts; None for as a whole."""
        memory = self.graphs[graph]
        if self.budget is None or not memory.measured or not memory.opened:
            return None
        room = self.budget - self.process
        return None if memory.divided <= room else memory.division(room)


def budget_of(memory: str | int | None) -> int | None:
    """Bytes that `load` was given ("6G", 6_000_000_000), or None.

    Raises:
        UsageError: it is no number of bytes.
    """
    if memory is None:
        return None
    count = parse_bytes(memory) if isinstance(memory, str) else memory
    if count is None or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UsageError(f"'{memory}' is no amount of memory; expected bytes, e.g. 600M or 6G.")
    return count


def memory_plan(
    manifest: Manifest,
    budget: int | None,
    computes: Mapping[str, str] = MappingProxyType({}),
    picture: tuple[int, int] | None = None,
    process: bool = False,
) -> MemoryPlan:
    """The plan for an artifact; reads no file.

    Args:
        budget: bytes that its graphs may take, and with `process` what else is in theirs; None for no limit.
        computes: graph -> the type that it is computed in; of others the type that is usual where it was compiled.
        picture: its width and height; None for the largest.

    Raises:
        UsageError: the artifact was not compiled for the size.
    """
    if picture is not None:
        check_range("a width of", picture[0], manifest.sizes, "width")
        check_range("a height of", picture[1], manifest.sizes, "height")
    graphs = {}
    held = [0]
    for graph in manifest.graphs:
        dims = _dims(graph, manifest, picture)
        largest = _elements(graph, dims)
        scaling = scaling_of(graph)
        least = min(largest, _elements(graph, _of_tile(graph, scaling))) if scaling is not None else largest
        use = _use(graph, computes.get(graph.folder, ""))
        files = sum(file.size for file in manifest.files if file.path.startswith(f"{graph.folder}/"))
        if use is None:
            tensors = sum(_bytes(spec, dims) for spec in (*graph.inputs, *graph.outputs))
            calls: tuple[CallSize, ...] = (CallSize(largest, tensors),)
            graphs[graph.folder] = GraphMemory(graph.folder, files, files, 0, calls, largest, least, False)
            continue
        calls = tuple(CallSize(call.elements, call.anonymous) for call in use.calls)
        graphs[graph.folder] = GraphMemory(
            graph.folder, use.opening, use.anonymous, use.file_backed, calls, largest, least, True
        )
        held.append(use.process)
    return MemoryPlan(graphs, budget, max(held) if process else 0)


def _use(graph: GraphRecord, compute: str) -> MemoryUse | None:
    """What was measured of the graph in the type; where that is empty, in the last that does not fail it."""
    uses = [
        evidence.memory
        for evidence in graph.evidence
        if evidence.memory is not None
        and evidence.memory.calls
        and (evidence.compute == compute if compute else not evidence.broken)
    ]
    return uses[-1] if uses else None


def _dims(graph: GraphRecord, manifest: Manifest, size: tuple[int, int] | None) -> dict[str, int]:
    """The symbolic dimensions of a call for a picture of the size: those that follow it on a line, others at most.

    So are all of what makes no pictures.
    """
    width, height = manifest.sizes.get("width"), manifest.sizes.get("height")
    if size is None or width is None or height is None:
        return {name: span.max for name, span in graph.dims.items()}
    shares = {
        "width": _share(size[0], width.min, width.max),
        "height": _share(size[1], height.min, height.max),
        "tokens": _share(size[0] * size[1], width.min * height.min, width.max * height.max),
    }
    return {
        name: round(span.min + shares.get(name.partition("_")[0], 1.0) * (span.max - span.min))
        for name, span in graph.dims.items()
    }


def _share(value: int, low: int, high: int) -> float:
    return 1.0 if low == high else (value - low) / (high - low)


def _of_tile(graph: GraphRecord, scaling: Scaling) -> dict[str, int]:
    """The dimensions of a call of the smallest tile."""
    cells = scaling.smallest // scaling.factor
    dims = {name: span.max for name, span in graph.dims.items()}
    for spec, side in ((graph.inputs[0], scaling.into), (graph.outputs[0], scaling.out_of)):
        for dim in spec.shape[-2:]:
            if isinstance(dim, str):
                dims[dim] = min(dims.get(dim, cells * side), cells * side)
        if isinstance(spec.shape[0], str) and spec.shape[0] in graph.dims:
            dims[spec.shape[0]] = graph.dims[spec.shape[0]].min
    return dims


def _shape(spec: TensorSpec, dims: Mapping[str, int]) -> list[int]:
    """The tensor's shape; a dimension that is not known counts as 1."""
    return [dim if isinstance(dim, int) else dims.get(dim, 1) for dim in spec.shape]


def _elements(graph: GraphRecord, dims: Mapping[str, int]) -> int:
    return sum(math.prod(_shape(spec, dims)) for spec in (*graph.inputs, *graph.outputs))


def _bytes(spec: TensorSpec, dims: Mapping[str, int]) -> int:
    return math.prod(_shape(spec, dims)) * _element_bytes(spec.dtype)


def _element_bytes(dtype: str) -> int:
    import ml_dtypes  # noqa: F401  so that NumPy knows bfloat16
    import numpy as np

    return np.dtype(dtype).itemsize
