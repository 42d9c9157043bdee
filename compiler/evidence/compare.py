"""A graph's files against PyTorch: what both a compile and a later `verify --numerics` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from artifacts import memory
from artifacts.manifest import Built, Evidence, WeightRecord
from artifacts.progress import Event, Progress
from compiler.capture.infer import Method
from compiler.evidence.graphs import Checker, Job, memory_needed
from compiler.quantize import table
from compiler.quantize.decide import NONE
from compiler.source import ComponentSource
from runtimes.compute import AUTO


def compare(
    checker: Checker,
    component: ComponentSource,
    method: Method,
    model_file: Path,
    *,
    target: str,
    tolerance: Mapping[str, float],
    precision: str,
    weights: Sequence[WeightRecord],
    built: Built,
    parameters: int,
    check: str,
    progress: Progress,
    compute: str = AUTO,
) -> tuple[Evidence, ...]:
    """The relative error of a written graph in each type, or that it was not measured and why.

    Args:
        tolerance: the target's own (`targets.base.Requirements.tolerance`).
        weights: how the graph's weights are quantized.
        built: what the target said of its files.
        parameters: of the component; what PyTorch will hold in fp32.
        check: "quick" (one set of shapes), "full" (all) or "none".
        compute: the only type to measure; "auto" for fp32 and what runs here by default.

    Raises:
        LatentcError: the error is beyond its tolerance.
    """
    from compiler.capture.samples import write_points

    if check == "none":
        return (Evidence(check="not measured", reason="--check none"),)
    if short := memory.shortage(memory_needed(parameters)):
        return (Evidence(check="not measured", reason=f"it takes {short}"),)
    schemes = {weight.scheme.partition(":")[0] for weight in weights} - {NONE}
    task = f"{method.folder}: comparing with PyTorch"
    progress(Event(task, 0, None))
    with write_points(method, None if check == "full" else 1) as points:
        job = Job(
            target=target,
            device="auto",
            precision=precision,
            compute=compute,
            tolerance=dict(tolerance),
            schemes={name: table.get(name).tolerance for name in sorted(schemes)},
            model_file=str(model_file),
            built=built,
            component=method.component,
            library=component.library,
            class_name=component.class_name,
            folder=str(component.folder),
            method=method.method,
            arguments=method.arguments,
            inputs=method.inputs,
            outputs=method.outputs,
            state=method.state,
            points=tuple(str(point) for point in points),
        )
        evidence = checker.run(job, check)
    progress(Event(task, 1, 1))
    return evidence
