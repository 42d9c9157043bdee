"""`python -m tests.sweep.planned_memory [NAME...]`: what plans say tiny models take, beside what drawing takes.

Each model of the sweep is compiled with a check, which measures its graphs. A process of its own draws with all graphs
open, and another with one at a time. Exits with 1 where a plan is not near enough to the process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from artifacts import worker
from artifacts.resident import Watch
from bench import markdown_tables
from bench.project.memory_rows import LEAST, MOST
from tests.sweep.models import CASES

TARGETS = ("openvino", "onnxruntime")
MIB = 1 << 20
_SAMPLE = 0.005


@dataclass(frozen=True)
class Row:
    """One model's process: bytes of no file that the plan said, and at its peak."""

    name: str
    target: str
    way: str
    planned: int
    measured: int

    @property
    def ratio(self) -> float:
        """The plan's bytes for each byte that was measured."""
        return self.planned / self.measured

    @property
    def holds(self) -> bool:
        """Whether the plan is near enough."""
        return LEAST <= self.ratio <= MOST


@cache
def made(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The model of a case, and what a compile is given with it."""
    case, model = CASES[name], folder / name
    pipe = case.build()
    pipe.save_pretrained(model)
    return model, {} if case.added is None else case.added(pipe, folder / f"{name}-added")


def compiled(name: str, target: str, folder: Path) -> Path:
    """The artifact of a case, in fp32."""
    from artifacts.manifest import DimRange
    from compiler.build import compile
    from compiler.capture.declared_sizes import SizeRange
    from compiler.compile_request import CompileRequest

    case, out = CASES[name], folder / f"{name}-{target}"
    model, added = made(name, folder)
    side = DimRange(min=case.size, max=case.size)
    compile(
        CompileRequest(
            model=str(model),
            out=out,
            target=target,
            precision="fp32",
            tasks=tuple(case.tasks)[:1],
            size=SizeRange(side, side),
            arguments=case.compiled_with,
            **added,
        )
    )
    return out


def draw() -> None:
    """What a process does: draws as its argument, JSON, says, and prints its peak and the plan."""
    request = json.loads(sys.argv[1])
    with Watch(os.getpid(), _SAMPLE) as watch:
        from runtimes.memory_plan import memory_plan
        from runtimes.pipeline import load

        case = CASES[request["name"]]
        task = next(iter(case.tasks))
        with load(Path(request["artifact"]), cache=False, memory=request["memory"], task=task) as pipeline:
            pipeline.diffusers.set_progress_bar_config(disable=True)
            case.run(pipeline.diffusers, task)
            plan = memory_plan(pipeline.manifest, request["memory"], pipeline.computes, process=True)
    measured = watch.peaks().anonymous
    print(json.dumps([plan.text, plan.taken or plan.process, measured, plan.ways[2].bytes]))


def measured(name: str, target: str, artifact: Path) -> list[Row]:
    """The rows of an artifact: with all graphs open, and with one at a time."""
    rows: list[Row] = []
    memory = None
    for _ in range(2):
        request = {"name": name, "artifact": str(artifact), "memory": memory}
        command = [*worker.command("tests.sweep.planned_memory:draw"), json.dumps(request)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        way, planned, peak, memory = json.loads(answer.splitlines()[-1])
        rows.append(Row(name, target, way, planned, peak))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    figures = ("plan", "measured", "plan / measured")
    return markdown_tables.table(
        ("model", "target", "way", *figures),
        [
            (
                row.name,
                row.target,
                row.way,
                f"{row.planned // MIB:,} MiB",
                f"{row.measured // MIB:,} MiB",
                f"{row.ratio:.2f}",
            )
            for row in rows
        ],
        right=figures,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[*CASES], help=f"of: {', '.join(CASES)}")
    parser.add_argument("--target", action="append", choices=TARGETS, help="[default: all]")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - CASES.keys()):
        parser.error(f"there is no {', '.join(unknown)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="latentc-planned-") as folder:
        try:
            for name in args.names:
                for target in args.target or TARGETS:
                    rows += measured(name, target, compiled(name, target, Path(folder)))
                    print(table(rows[-2:]), file=sys.stderr)
        finally:
            print(table(rows))
    sys.exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    main()
