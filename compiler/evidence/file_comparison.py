"""A graph's files against PyTorch: what both a compile and a later `verify --numerics` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from artifacts import memory
from artifacts.creation_time import reproducible
from artifacts.errors import LatentcError
from artifacts.evidence_records import Evidence
from artifacts.manifest import Built, WeightRecord
from artifacts.progress import Event, Progress
from compiler.capture.infer import Method
from compiler.evidence.graph_evidence import Beyond, Checker, GraphCheckJob, memory_needed
from compiler.evidence.where import Finding, Locator, text
from compiler.model_source import ModelSource
from compiler.passes.approximations import tolerances
from compiler.quantize import scheme_table
from compiler.quantize.decide import NONE
from runtimes.compute import AUTO


def compare(
    checker: Checker,
    source: ModelSource,
    method: Method,
    model_file: Path,
    *,
    target: str,
    tolerance: Mapping[str, float],
    precision: str,
    weights: Sequence[WeightRecord],
    approximations: tuple[str, ...] = (),
    built: Built,
    parameters: int,
    check: str,
    progress: Progress,
    compute: str = AUTO,
    stored: str = "",
    locator: Locator | None = None,
    on_findings: Callable[[tuple[Finding, ...]], None] = lambda findings: None,
) -> tuple[Evidence, ...]:
    """The relative error of a written graph in each type, or that it was not measured and why.

    Args:
        tolerance: the target's own (`targets.target_contract.Requirements.tolerance`).
        weights: how the graph's weights are quantized.
        approximations: names of those that the graph got.
        built: what the target said of its files.
        parameters: of the component; what PyTorch will hold in fp32.
        check: "quick" (one set of shapes), "full" (all) or "none".
        compute: the only type to measure; "auto" for fp32 and what runs here by default.
        stored: the type whose tolerance the weights have; empty for `precision`.
        locator: looks for where a graph leaves its tolerance, if it does; None: nobody asks.
        on_findings: is told where types that fail the graph do, which is no error where fp32 takes their place.

    Raises:
        LatentcError: the error is beyond its tolerance; the message says where, if somebody asks.
    """
    from compiler.capture.samples import ends, order, write_points

    if check == "none":
        return (Evidence(check="not measured", reason="--check none"),)
    short = memory.shortage(memory_needed(parameters))
    schemes = {weight.scheme.partition(":")[0] for weight in weights} - {NONE}
    component = source.component(method.component)
    task = f"{method.folder}: comparing with PyTorch"
    progress(Event(task, 0, None))
    with (
        write_points(method, () if short else order(method)[: None if check == "full" else 1]) as points,
        write_points(method, () if reproducible() else ends(method)) as end_points,
    ):
        job = GraphCheckJob(
            target=target,
            device="auto",
            precision=precision,
            stored=stored,
            compute=compute,
            tolerance=dict(tolerance),
            schemes={name: scheme_table.get(name).tolerance for name in sorted(schemes)},
            approximations=tolerances(approximations),
            model_file=str(model_file),
            built=built,
            # A list of models has no folder of its own that its library opens.
            model=None if source.is_folder and not component.members else source.spec,
            component=method.component,
            library=component.library,
            class_name=component.class_name,
            folder=str(component.folder),
            method=method.method,
            arguments=method.arguments,
            inputs=method.inputs,
            outputs=method.outputs,
            state=method.state,
            settings=dict(method.settings),
            points=tuple(str(point) for point in points),
            ends=tuple(str(point) for point in end_points),
        )

        if short:
            return checker.memory(job, f"it takes {short}")

        def where(kind: str, limit: float) -> tuple[Finding, ...]:
            assert locator is not None
            quantized = {weight.key: weight.scheme for weight in weights if weight.scheme != NONE}
            return locator.locate(job, kind, limit, method.folder, parameters, quantized)

        try:
            evidence = checker.run(job, check)
        except Beyond as error:
            if locator is None:
                raise
            raise LatentcError(f"{error.message}\n{_located(where, error)}", error.hint) from error
        if locator is not None:
            for measured in evidence:
                if measured.broken and measured.tolerance is not None:
                    on_findings(where(measured.compute, measured.tolerance))
    progress(Event(task, 1, 1))
    return evidence


def _located(where: Callable[[str, float], tuple[Finding, ...]], error: Beyond) -> str:
    """Where a graph leaves its tolerance, or why that is not known; the graph's own error must not be lost."""
    try:
        return text(where(error.compute, error.limit))
    except LatentcError as reason:
        return f"Where it begins is not known: {' '.join(str(reason).splitlines())}"
