"""`python -m bench.project.full_size.component_graph MODEL COMPONENT`: one component's graph, as it is exported.

No weight is read. Prints JSON: seconds of the capture (of the whole pipeline) and of the export (of the
component, from its config to the folded graph), the nodes of the graph, and the parameters that it refers to.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time

from artifacts.errors import LatentcError

SIZES = (512, 1024)
"""Pixels of a side, from and to: the graph holds for every picture in between."""


def measure(model: str, component: str) -> dict[str, float]:
    """Captures the pipeline and exports each method of `component`.

    Raises:
        LatentcError: the pipeline never calls such a component, or a step failed.
    """
    from artifacts.manifest import DimRange
    from compiler.capture.capture import capture
    from compiler.capture.declared_sizes import SizeRange
    from compiler.export.graph_export import export_graph
    from compiler.source import open_model
    from targets.graph.weights import WeightRef

    start = time.perf_counter()
    source = open_model(model)
    side = DimRange(min=SIZES[0], max=SIZES[1])
    captured = capture(source, size=SizeRange(width=side, height=side))
    capturing = time.perf_counter() - start
    methods = [method for method in captured.methods if method.component == component]
    if not methods:
        reached = sorted({method.component for method in captured.methods})
        raise LatentcError(f"the pipeline calls no '{component}' (it calls: {', '.join(reached)}).")
    part = source.component(component)
    start = time.perf_counter()
    graphs = [export_graph(part, method, captured.weights[component]) for method in methods]
    exporting = time.perf_counter() - start
    return {
        "capture": capturing,
        "export": exporting,
        "nodes": sum(sum(1 for _ in graph.graph.all_nodes()) for graph in graphs),
        "parameters": sum(
            math.prod(value.const_value.shape.numpy())
            for graph in graphs
            for value in graph.graph.initializers.values()
            if isinstance(value.const_value, WeightRef)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.project.full_size.component_graph", description=__doc__
    )
    parser.add_argument("model")
    parser.add_argument("component")
    args = parser.parse_args()
    try:
        print(json.dumps(measure(args.model, args.component)))
    except LatentcError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
