"""`python -m bench.project.widened_weights ARTIFACT`: what a denoiser takes open, with weights of convolutions widened.

OpenVINO opens the artifact's largest graph and calls it with its largest sizes, once of the file that holds the weights
of convolutions widened (`runtimes.sessions.openvino_widened`) and once of the artifact's own, each in a process of its
own, whose memory is measured as a compile measures it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifacts import worker
from artifacts.manifest import GraphRecord
from artifacts.manifest_reading import read_manifest
from bench import markdown_tables

MIB = 1 << 20
WAYS = {"as stored": False, "widened into a file": True}


def largest(artifact: Path) -> GraphRecord:
    """The graph with the most parameters."""
    return max(read_manifest(artifact.absolute()).graphs, key=lambda graph: graph.parameters)


def inputs(graph: GraphRecord) -> dict[str, Any]:
    """Random arrays of the graph's largest sizes."""
    import numpy as np

    random = np.random.default_rng(1)
    dims = {name: span.max for name, span in graph.dims.items()}
    shapes = {s.name: [dims[d] if isinstance(d, str) else d for d in s.shape] for s in graph.inputs}
    return {
        spec.name: random.standard_normal(shapes[spec.name]).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else np.ones(shapes[spec.name], spec.dtype)
        for spec in graph.inputs
    }


def measure() -> None:
    """What a process does: opens and calls the graph as its argument, JSON, says, and prints what that took."""
    from compiler.evidence.memory_use import MemoryMeter
    from runtimes.sessions import openvino

    request = json.loads(sys.argv[1])
    graph = largest(Path(request["artifact"]))
    file = Path(request["artifact"]) / graph.model_file
    if not request["widened"]:
        vars(openvino)["widened"] = lambda core, model_file, compute, folder: model_file
    meter = MemoryMeter(graph.inputs)
    before = time.process_time()
    with tempfile.TemporaryDirectory(prefix="latentc-cache-") as cache:
        session = meter.open(
            lambda: openvino.SESSION.open(file, "cpu", request["compute"], Path(cache), graph.built)
        )
        meter.call(session, [inputs(graph)])
        seconds = time.process_time() - before
        session.close()
        kept = sum(entry.stat().st_size for entry in Path(cache).rglob("*") if entry.is_file())
    use = meter.use()
    assert use is not None
    print(json.dumps([use.opening, use.anonymous, use.calls[-1].anonymous, kept, seconds]))


def table(rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """What each way took, as Markdown."""
    figures = ("opening, at most", "open", "a call", "in the cache", "processor, of opening and two calls")
    return markdown_tables.table(
        ("", *figures),
        [
            (way, *(f"{figure // MIB:,.0f} MiB" for figure in took[:4]), f"{took[4]:.0f} s")
            for way, took in rows
        ],
        right=figures,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--compute", default="bf16", choices=("bf16", "fp32"))
    args = parser.parse_args()
    rows = []
    for way, widened in WAYS.items():
        request = {"artifact": str(args.artifact), "compute": args.compute, "widened": widened}
        command = [*worker.command("bench.project.widened_weights:measure"), json.dumps(request)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append((way, json.loads(answer.splitlines()[-1])))
    print(table(rows))


if __name__ == "__main__":
    main()
