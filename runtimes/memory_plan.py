"""Whether an artifact's graphs fit in memory, and which stay open: a budget, and what each graph is taken to need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import MemoryUse
from artifacts.manifest import GraphRecord, Manifest, TensorSpec
from artifacts.units import parse_bytes, size
from runtimes.generate_options import check_range
from runtimes.graph_memory import DIVISIONS, CallSize, Division, GraphMemory
from runtimes.tiles import Scaling, scaling_of


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
        ways = [
            Way("all graphs stay open", _in_turn(graphs)),
            Way(
                f"what is called before {graphs[largest].graph} is closed before that opens",
                max(_in_turn(graphs[:largest]), _in_turn(graphs[largest:])),
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
        """Bytes that a process takes at most that draws one picture and follows the plan; None where nothing fits."""
        if self.way is None:
            return None
        opened: list[str] = []
        most = 0
        for folder in self.graphs:
            closed = self.to_close(folder, tuple(opened))
            opened = [other for other in opened if other not in closed]
            most = max(most, self._alone(folder) + sum(self.graphs[other].retained for other in opened))
            opened.append(folder)
        return self.process + most

    def _alone(self, folder: str) -> int:
        """Bytes of one graph as it runs by the plan."""
        memory, division = self.graphs[folder], self.division(folder)
        if division is not None:
            return division.bytes(memory)
        fits = self.budget is None or memory.total <= self.budget - self.process
        return memory.total if fits else memory.divided

    @property
    def together(self) -> int:
        """Bytes of all graphs open."""
        return _in_turn(self.graphs.values()) + self.process

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
        over = self.process + self.graphs[graph].total - self.budget
        over += sum(self.graphs[folder].retained for folder in opened)
        closed = []
        for folder in opened:
            if over <= 0:
                break
            closed.append(folder)
            over -= self.graphs[folder].retained
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


def _in_turn(graphs: Iterable[GraphMemory]) -> int:
    """Bytes at most of graphs that are opened and called one after the other, and stay open."""
    retained = most = 0
    for graph in graphs:
        most = max(most, retained + graph.total)
        retained += graph.retained
    return most


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
    process_sizes = [0]
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
        cuts = use.cuts if len(use.cuts) == len(DIVISIONS) else ()
        inputs = sum(math.prod(_shape(spec, dims)) for spec in graph.inputs)
        longest = max(call.elements for call in calls)
        if longest > largest and not _bounded(
            graph, dims
        ):  # A prompt's length, say: the longest that was measured.
            inputs, largest = inputs * longest // max(1, largest), longest
        graphs[graph.folder] = GraphMemory(
            graph.folder,
            use.opening,
            use.anonymous,
            use.file_backed,
            calls,
            largest,
            least,
            measured=True,
            cuts=cuts,
            inputs=inputs,
        )
        process_sizes.append(use.process)
    return MemoryPlan(graphs, budget, max(process_sizes) if process else 0)


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


def _bounded(graph: GraphRecord, dims: Mapping[str, int]) -> bool:
    """Whether all dimensions of its inputs are known."""
    return all(isinstance(dim, int) or dim in dims for spec in graph.inputs for dim in spec.shape)


def _elements(graph: GraphRecord, dims: Mapping[str, int]) -> int:
    return sum(math.prod(_shape(spec, dims)) for spec in (*graph.inputs, *graph.outputs))


def _bytes(spec: TensorSpec, dims: Mapping[str, int]) -> int:
    return math.prod(_shape(spec, dims)) * _element_bytes(spec.dtype)


def _element_bytes(dtype: str) -> int:
    import ml_dtypes  # noqa: F401  so that NumPy knows bfloat16
    import numpy as np

    return np.dtype(dtype).itemsize
