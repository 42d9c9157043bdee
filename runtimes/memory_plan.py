"""Whether an artifact's graphs fit in memory, and which stay open: a budget, and what each graph is taken to need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import GraphRecord, Manifest, TensorSpec
from artifacts.units import parse_bytes, size


@dataclass(frozen=True)
class GraphMemory:
    """What one graph is taken to need while it is open, in bytes. It is derived from the manifest, not measured: what
    is between the inputs and the outputs is not in it.

    Attributes:
        files: of the graph's files, its weights above all.
        tensors: of a call's inputs and outputs at the largest size.
    """

    graph: str
    files: int
    tensors: int

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.files + self.tensors


@dataclass(frozen=True)
class MemoryPlan:
    """Which graphs may be open at once.

    Attributes:
        graphs: what each needs, by its folder.
        budget: bytes; None for no limit.
    """

    graphs: Mapping[str, GraphMemory]
    budget: int | None

    @property
    def together(self) -> int:
        """Bytes of all graphs."""
        return sum(graph.total for graph in self.graphs.values())

    @property
    def smallest(self) -> int:
        """The smallest budget: bytes of the largest graph."""
        return max((graph.total for graph in self.graphs.values()), default=0)

    @property
    def text(self) -> str:
        """What is done, for people."""
        if self.budget is None or self.together <= self.budget:
            return "all graphs stay open"
        if self.smallest > self.budget:
            return "the largest graph does not fit"
        return "a graph is closed when another needs its memory, the least recently used first"

    def check(self) -> None:
        """Raises LatentcError where a graph alone is larger than the budget."""
        if self.budget is None or self.smallest <= self.budget:
            return
        largest = max(self.graphs.values(), key=lambda graph: graph.total)
        raise LatentcError(
            f"the graph '{largest.graph}' needs at least {size(largest.total)} of memory, by the size of its files; "
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
        over = self.graphs[graph].total + sum(self.graphs[folder].total for folder in opened) - self.budget
        closed = []
        for folder in opened:
            if over <= 0:
                break
            closed.append(folder)
            over -= self.graphs[folder].total
        return tuple(closed)


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


def memory_plan(manifest: Manifest, budget: int | None) -> MemoryPlan:
    """The plan for an artifact; reads no file.

    Args:
        budget: bytes that its graphs may take; None for no limit.
    """
    graphs = {}
    for graph in manifest.graphs:
        files = sum(file.size for file in manifest.files if file.path.startswith(f"{graph.folder}/"))
        tensors = sum(_bytes(spec, graph) for spec in (*graph.inputs, *graph.outputs))
        graphs[graph.folder] = GraphMemory(graph.folder, files, tensors)
    return MemoryPlan(graphs, budget)


def _bytes(spec: TensorSpec, graph: GraphRecord) -> int:
    """Bytes of the tensor at the largest of its sizes; a dimension whose range is not known counts as 1."""
    dims = (
        dim if isinstance(dim, int) else graph.dims[dim].max if dim in graph.dims else 1 for dim in spec.shape
    )
    return math.prod(dims) * _element_bytes(spec.dtype)


def _element_bytes(dtype: str) -> int:
    import ml_dtypes  # noqa: F401  so that NumPy knows bfloat16
    import numpy as np

    return np.dtype(dtype).itemsize
