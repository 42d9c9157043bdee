"""Where a graph leaves its tolerance: the first nodes, with their modules, and what is likely wrong with them.

A graph is computed in three ways beside PyTorch: as it was exported and after its passes, both in ONNX Runtime, and by
the target's own session. Two neighbours of those that disagree are compared value by value, through Polygraphy.
`Locator` is the compiler's side, `locating` the other's, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel

from artifacts import memory
from artifacts.errors import LatentcError
from artifacts.progress import Event, Progress
from artifacts.temporary import private_folder
from artifacts.worker import WorkerError, ask
from artifacts.worker_loop import Work
from compiler.evidence import dataflow, runners
from compiler.evidence.bisection import Beginning, Measure, beyond, locate
from compiler.evidence.dataflow import Dataflow
from compiler.evidence.graph_evidence import GraphCheckJob, memory_needed
from compiler.evidence.graph_measurement import loaded
from compiler.export.scopes import MODULE
from compiler.road import Road
from runtimes.compute import WIDE
from runtimes.sessions import session_table
from runtimes.sessions.onnx_format import ONNX, format_of

if TYPE_CHECKING:
    import onnx_ir as ir

Kind = Literal["export", "pass", "overflow", "quantized layer", "constant", "kernel"]

LARGEST_NUMBER = {"fp16": 65504.0, "bf16": 3.3895e38}
"""Of each type that is narrower than fp32."""

_MOST = 3
"""Graph outputs whose first deviation is looked for."""

_NAMED = 4


class Finding(BaseModel, frozen=True):
    """The first node on the way to an output whose value leaves the tolerance.

    Attributes:
        folder: of the graph. output: the graph's output that leaves it, too. compute: the type computed in.
        kind: "export": the exported graph is not PyTorch's. "pass": a graph pass or a rewrite changed what is computed.
            "overflow", "quantized layer", "constant" and "kernel": the target computes otherwise than ONNX Runtime
            does, because the type is too narrow, the weights have few bits or are others, or for another reason.
        between: who was compared ("openvino against ONNX Runtime").
        node, op_type, module, value: the node, its operator, the module of the model that it belongs to ("" for the
            component itself), and the value that it makes.
        error: relative, of `value`; None where it is not finite.
        before: the largest error of what the node is computed from; None where that could not be compared.
        others: further nodes that may be meant, since their values could not be compared.
        reason: what is likely wrong, for people.
    """

    folder: str
    output: str
    compute: str
    kind: Kind
    between: str
    node: str
    op_type: str
    module: str
    value: str
    error: float | None
    before: float | None
    others: tuple[str, ...] = ()
    reason: str

    def __str__(self) -> str:
        at = f"'{self.module}'" if self.module else f"'{self.folder}' itself"
        error = "not finite" if self.error is None else f"{self.error:.2g}"
        before = "" if self.before is None else f" after {self.before:.2g}"
        more = f" (or in {', '.join(self.others)}, whose values cannot be compared)" if self.others else ""
        return (
            f"'{self.output}' of {self.folder} in {self.compute} leaves its tolerance first in {at}: "
            f"node '{self.node}' ({self.op_type}, value '{self.value}'){more}, "
            f"relative error {error}{before}, {self.between}. "
            f"{self.kind[0].upper()}{self.kind[1:]}: {self.reason}."
        )


class Request(BaseModel):
    """What the other process needs.

    Attributes:
        check: the check that failed. compute: the type in which it did. limit: what an error was held to.
        folder: of the graph.
        exported, passed: ONNX files of the graph as it was exported, in fp32, and as its target takes it, computed in
            fp32 and not quantized.
        schemes: path of a module -> the scheme of its quantized weight.
    """

    check: GraphCheckJob
    compute: str
    limit: float
    folder: str
    exported: str
    passed: str
    schemes: dict[str, str]


@dataclass(frozen=True)
class Locator:
    """Looks for where a graph leaves its tolerance.

    Attributes:
        export: makes the graph in fp32, weights still on disk.
        road: what it went through on the way to its target, quantization aside.
        largest: symbolic dimension -> its largest declared size, for approximations.
    """

    export: Callable[[], ir.Model]
    road: Road
    progress: Progress
    largest: Mapping[str, int] = field(default_factory=dict)

    def locate(
        self,
        check: GraphCheckJob,
        compute: str,
        limit: float,
        folder: str,
        parameters: int,
        schemes: Mapping[str, str],
    ) -> tuple[Finding, ...]:
        """The first nodes whose values are beyond the limit.

        Args:
            schemes: key of a quantized weight -> its scheme.

        Raises:
            LatentcError: they cannot be looked for here; the message says why.
        """
        if install := runners.missing():
            raise LatentcError("errors are located with polygraphy, which is not installed.", install)
        if short := memory.shortage(memory_needed(parameters)):
            raise LatentcError(f"it takes {short}.")
        task = f"{folder}: looking for where it leaves the tolerance"
        self.progress(Event(task, 0, None))
        with private_folder() as place:
            exported, passed = self._write(place)
            request = Request(
                check=check,
                compute=compute,
                limit=limit,
                folder=folder,
                exported=str(exported),
                passed=str(passed),
                schemes={key.rpartition(".")[0]: scheme for key, scheme in schemes.items()},
            )
            try:
                answer = ask(f"{__name__}:locating", request)
            except WorkerError as error:
                raise LatentcError(error.message, error.hint) from error
        self.progress(Event(task, 1, 1))
        return tuple(Finding.model_validate(finding) for finding in answer["findings"])

    def _write(self, folder: Path) -> tuple[Path, Path]:
        from targets.graph.onnx_files import write_onnx

        files = []
        model = self.export()
        for name in ("exported", "passed"):
            if name == "passed":
                # The types are the target's own matter: beside it stands the same graph, computed in fp32.
                model = (
                    replace(self.road, typed="weights")
                    .run(model, progress=self.progress, largest=self.largest)
                    .model
                )
            files.append(folder / name / "model.onnx")
            files[-1].parent.mkdir()
            write_onnx(model, files[-1], self.progress, f"{name} graph: writing weights")
        return files[0], files[1]


@dataclass(frozen=True)
class _Stage:
    """Two ways to compute a graph, of which the second may be wrong.

    Attributes:
        graph: whose values are compared; `comparable` are those that both have.
    """

    name: str
    graph: Dataflow
    reference: runners.Opens
    other: runners.Opens
    comparable: frozenset[str]
    between: str

    def measure(self, feed: Mapping[str, np.ndarray]) -> Measure:
        return runners.measuring(self.reference, self.other, feed, self.graph.outputs)


def answer(request: Request) -> list[Finding]:
    """Looks in this process; nothing where no two ways to compute the graph disagree."""
    feeds = [dict(np.load(file)) for file in request.check.points]
    most: tuple[float, _Stage, dict[str, np.ndarray], dict[str, float]] | None = None
    total = 0.0
    for stage in _stages(request):
        worst_of_stage = 0.0
        for feed in feeds:
            measured = stage.measure(feed)(stage.graph.outputs)
            errors = {name: row.error if row.error == row.error else np.inf for name, row in measured.items()}
            worst = max(errors.values(), default=0.0)
            if most is None or worst > most[0]:
                most = (worst, stage, feed, errors)
            if beyond(worst, request.limit):
                return _findings(request, stage, feed, errors, request.limit)
            worst_of_stage = max(worst_of_stage, worst)
        total += worst_of_stage
    if most is None or not beyond(total, request.limit):
        return []
    # Each is within it, and together they are not.
    return _findings(request, most[1], most[2], most[3], most[0] / 2)


def _stages(request: Request) -> list[_Stage]:
    check = request.check
    factory = session_table.get(check.target)
    model_file = Path(check.model_file)
    exported, passed = (dataflow.read(Path(file), MODULE) for file in (request.exported, request.passed))
    before, after = frozenset(exported.makers), frozenset(passed.makers)
    form = format_of(factory, model_file)
    own = frozenset() if form is None else frozenset(form.values(model_file))
    results = exported.module_results()
    by_file = runners.onnx_runtime(Path(request.exported), frozenset(ONNX.values(Path(request.exported))))
    by_passed = runners.onnx_runtime(Path(request.passed), frozenset(ONNX.values(Path(request.passed))))
    outputs = [spec.name for spec in check.outputs]
    session = runners.session(factory, form, model_file, check.device, request.compute, check.built, own)
    call = cache(lambda: loaded(check))
    # The cheapest first: most often it is the last step that went wrong, and PyTorch is not needed then.
    return [
        _Stage(
            "target", passed, by_passed, session, after & own, f"{check.target} against ONNX Runtime"
        ),
        _Stage(
            "export", exported, runners.module(call, outputs, results), by_file, frozenset(results),
            "ONNX Runtime against PyTorch",
        ),
        _Stage(
            "pass", passed, by_file, by_passed, before & after,
            "the graph after its passes against the graph as it was exported, both in ONNX Runtime",
        ),
    ]  # fmt: skip


def _findings(
    request: Request,
    stage: _Stage,
    feed: Mapping[str, np.ndarray],
    errors: Mapping[str, float],
    limit: float,
) -> list[Finding]:
    measure = stage.measure(feed)
    findings: dict[str, Finding] = {}
    wrong = [name for name, error in errors.items() if beyond(error, limit)]
    for output in wrong[:_MOST]:
        beginning = locate(stage.graph, output, stage.comparable, measure, limit)
        findings.setdefault(beginning.value, _finding(request, stage, output, beginning))
    return list(findings.values())


def _finding(request: Request, stage: _Stage, output: str, beginning: Beginning) -> Finding:
    graph, value = stage.graph, graph_value(stage.graph, beginning.value)
    maker = graph.makers[value]
    makers = (graph.makers[name] for name in beginning.between)
    others = [f"'{other.node}' ({other.op_type})" for other in dict.fromkeys(makers) if other != maker]
    kind, reason = _kind(request, stage, beginning)
    return Finding(
        folder=request.folder,
        output=output,
        compute=request.compute,
        kind=kind,
        between=stage.between,
        node=maker.node,
        op_type=maker.op_type,
        module=maker.module,
        value=value,
        error=_finite(beginning.measured.error),
        before=None if beginning.before is None else _finite(beginning.before),
        others=(*others[:_NAMED], *([f"{len(others) - _NAMED} more"] if len(others) > _NAMED else [])),
        reason=reason,
    )


def graph_value(graph: Dataflow, value: str) -> str:
    """What the graph computes first with a constant, such as a weight that is cast; any other value itself."""
    while value in graph.constants and value in graph.readers:
        value = graph.readers[value][0]
    return value


def _kind(request: Request, stage: _Stage, beginning: Beginning) -> tuple[Kind, str]:
    if stage.name == "export":
        return "export", "the exported graph is not the module's code or not its weights"
    if stage.name == "pass":
        return "pass", f"one of {request.check.target}'s rewrites or a graph pass changes what is computed"
    measured, target = beginning.measured, request.check.target
    largest = LARGEST_NUMBER.get(request.compute)
    if largest is not None and (measured.peak > largest or not measured.finite):
        reaches = f"in fp32 its values reach {measured.peak:.3g}, and {request.compute} holds none above {largest:.3g}"
        return "overflow", reaches
    module = stage.graph.makers[graph_value(stage.graph, beginning.value)].module
    if scheme := request.schemes.get(module):
        return "quantized layer", f"its weights are in {scheme}"
    if beginning.value in stage.graph.constants:
        return "constant", f"the file for {target} holds another '{beginning.value}' than the model"
    narrow = "" if request.compute == WIDE else f" in {request.compute}"
    return (
        "kernel",
        f"{target} computes it{narrow} otherwise than ONNX Runtime does, or its small constants are not the model's",
    )


def _finite(error: float) -> float | None:
    return error if np.isfinite(error) else None


def text(findings: Sequence[Finding]) -> str:
    """What was found, a line for each."""
    return (
        "\n".join(map(str, findings)) or "Where it begins was not found: no two ways to compute it disagree."
    )


def locating() -> Work:
    """The work of the process that looks."""

    def work(line: str) -> Any:
        return {"findings": [row.model_dump() for row in answer(Request.model_validate_json(line))]}

    return work
