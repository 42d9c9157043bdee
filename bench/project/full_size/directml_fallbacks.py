"""`python -m bench.project.full_size.directml_fallbacks NAME...`: full-size nodes that DirectML leaves to the CPU.

Graphs are exported from the published configs, in fp16, at the pipeline's own picture size; no weight is read and
nothing is written. Every node is held against ONNX Runtime's table of the provider's kernels. Ends with status 1
where one has none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from artifacts.errors import LatentcError
from bench.project.full_size.published import PUBLISHED
from targets.directml.kernel_coverage import Coverage, Fallback


@dataclass(frozen=True)
class Row:
    """One graph at one size.

    Attributes:
        seconds: of its export and its check.
    """

    graph: str
    dims: dict[str, int]
    coverage: Coverage
    seconds: float

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.dims.items())
        total, left = self.coverage.total, len(self.coverage.fallbacks)
        fused = {op: n for op, n in self.coverage.nodes.items() if op.startswith("com.microsoft.")}
        listed = ", ".join(f"{n} {op.rpartition('.')[2]}" for op, n in sorted(fused.items()))
        head = f"{self.graph} ({sizes}): {total - left} of {total} nodes in DirectML"
        return f"{head}; fused: {listed or 'none'}; {self.seconds:.0f} s"


def check(name: str, components: frozenset[str] = frozenset()) -> Iterator[Row]:
    """The graphs of an architecture of `PUBLISHED`, each at the largest size that it is compiled for.

    Args:
        components: only these; empty for all.
    """
    from bench.project.full_size.make import make_configs
    from compiler.capture.capture import capture
    from compiler.compile_request import PRECISION
    from compiler.export.graph_export import export_graph
    from compiler.passes.pass_table import simplify
    from compiler.road import Road
    from compiler.source import open_model
    from targets import target_table as targets
    from targets.directml.kernel_coverage import coverage
    from targets.directml.target import TARGET, at_size, sizes

    with tempfile.TemporaryDirectory(prefix="latentc-directml-") as folder:
        model = Path(folder) / name
        make_configs(PUBLISHED[name], model)
        source = open_model(str(model))
        captured = capture(source, weightless=True)
        for method in captured.methods:
            if components and method.component not in components:
                continue
            start = time.perf_counter()
            part = source.component(method.component)
            graph = export_graph(part, method, captured.weights[method.component])
            graph = Road.to(targets.get(TARGET.name), PRECISION).run(graph, read_weights=False).model
            point = sizes(graph, method.dims)[-1]
            result = coverage(at_size(graph, point, simplify))
            yield Row(method.folder, dict(point), result, time.perf_counter() - start)


def summary(fallbacks: tuple[Fallback, ...]) -> Iterator[str]:
    """What remains, alike ones counted, with the first of each."""
    alike = Counter((f.op, f.reason) for f in fallbacks)
    for (op, reason), count in alike.most_common():
        first = next(f for f in fallbacks if (f.op, f.reason) == (op, reason))
        yield f"  {count} x {op}: {reason} (first: '{first.node}' of {first.module or 'the component itself'})"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.project.full_size.directml_fallbacks", description=__doc__
    )
    parser.add_argument("names", nargs="+", metavar="NAME", choices=sorted(PUBLISHED))
    parser.add_argument("--component", action="append", default=[], help="only this one; may be repeated")
    args = parser.parse_args()
    left = 0
    for name in args.names:
        print(f"{name}:", flush=True)
        try:
            for row in check(name, frozenset(args.component)):
                print(f"  {row}", flush=True)
                for line in summary(row.coverage.fallbacks):
                    print(f"  {line}", flush=True)
                left += len(row.coverage.fallbacks)
        except LatentcError as error:
            print(f"  not checked: {error}", flush=True)
            left += 1
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
