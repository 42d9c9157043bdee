"""How far off a whole pipeline's picture, and what a component gives back to it, may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from artifacts.manifest import GraphRecord, Manifest
from compiler.evidence.graph_evidence import LARGEST, TOLERANCE
from compiler.passes.approximations import tolerances
from compiler.quantize import scheme_table
from compiler.quantize.decide import NONE
from runtimes.compute import WIDE

GAIN = 10.0
"""How many times a picture of rounded weights may be as far off as the worst of its graphs: guidance takes the
difference of two outputs times 7.5, and the next step is made of it. What is no rounding is held to less, in
`generate`."""


def scheme_tolerances(manifest: Manifest) -> dict[str, float]:
    """Weight scheme or approximation -> its tolerance, of those that the graphs have."""
    names = {name for graph in manifest.graphs for name in _schemes(graph)}
    approximated = {name for graph in manifest.graphs for name in graph.approximations}
    return {name: scheme_table.get(name).tolerance for name in sorted(names)} | tolerances(
        tuple(approximated)
    )


def picture_limit(graphs: Sequence[GraphRecord], compute: str, schemes: Mapping[str, float]) -> float:
    """The largest error allowed of a picture that these graphs draw; `schemes` are `scheme_tolerances`."""
    worst = max(graph_limit(graph, compute, schemes) for graph in graphs)
    return worst if worst <= TOLERANCE[WIDE] else min(LARGEST, GAIN * worst)


def graph_limit(graph: GraphRecord, compute: str, schemes: Mapping[str, float]) -> float:
    """What the graph's own check held it to in this type, or else would have."""
    measured = (evidence.tolerance for evidence in graph.evidence if evidence.compute == compute)
    constants = (
        TOLERANCE[graph.precision],
        TOLERANCE[compute],
        *(schemes[name] for name in (*_schemes(graph), *graph.approximations) if name in schemes),
    )
    return next((limit for limit in measured if limit is not None), max(constants))


def component_limits(manifest: Manifest, compute: str, schemes: Mapping[str, float]) -> dict[str, float]:
    """ "unet.forward" -> the largest error allowed of what it gives back."""
    graphs = {graph.folder: graph_limit(graph, compute, schemes) for graph in manifest.graphs}
    limits: dict[str, float] = {}
    for component in manifest.components:
        for record in component.methods:
            name = f"{component.name}.{record.method}"
            limits[name] = max(limits.get(name, 0.0), graphs[record.graph])
    return limits


def _schemes(graph: GraphRecord) -> set[str]:
    return {weight.scheme.partition(":")[0] for weight in graph.weights} - {NONE}
