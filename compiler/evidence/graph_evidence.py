"""Is a compiled graph PyTorch's? What is asked of the process that measures, and what becomes of its answer.

`Checker` asks; `compiler.evidence.graph_measurement` answers, in a process of its own.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any, Literal

from pydantic import BaseModel

from artifacts.call_trees import Tree
from artifacts.errors import LatentcError
from artifacts.evidence_records import Evidence, MemoryUse
from artifacts.manifest import Built, ModelSpec, TensorSpec
from artifacts.worker import Worker, WorkerEnded, WorkerError, serving
from runtimes.compute import AUTO, WIDE

TOLERANCE: dict[str, float] = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 6e-2}
"""Largest ``||out - ref|| / ||ref||`` of any output, by precision; weight schemes have their own, and targets may
(`targets.target_contract.Requirements.tolerance`). Rounding weights to 11 or 8 bits gives about a tenth of this
through the depth of these networks; a wrong graph gives about 1."""

OWN_NOISE = 3.0
"""How many times PyTorch's own error in bf16 or fp16, against itself in fp32 on the same inputs, a graph that is
computed in that type may be off. How far a type is off depends on the network: tiny random ones amplify what a trained
one does not. Runtimes round in other places than PyTorch, and sums and norms too: on the graphs of the sweep OpenVINO
in bf16 is 0.7 to 1.8 times as far off. Angles that are rounded, which a picture shows, are 7 to 30 times."""

LARGEST = 0.6
"""No measured noise may allow more: a wrong graph gives about 1."""

# A PyTorch process and a runtime, without any model, in bytes.
_BASE_MEMORY = 900 * 2**20


class GraphCheckJob(BaseModel):
    """One graph to check.

    Attributes:
        target, device, precision, model_file, built: what a session opens; `precision` is its weights'.
        stored: the type whose tolerance the weights have; empty for `precision`.
        compute: the only type to measure, or "auto": fp32, and what the device computes in by default.
        schemes: of the graph's quantized weights, each with its tolerance (`compiler.quantize.scheme`).
        approximations: that the graph got, each with its tolerance (`compiler.passes.approximations`).
        tolerance: the target's own, by type, in place of `TOLERANCE`.
        model: what PyTorch loads, where diffusers cannot open it; None for a component's folder.
        library, class_name, folder: what PyTorch loads of a folder.
        component, method, arguments, inputs, outputs, state, settings: how it is called.
        points: files of inputs, one for each set of shapes (npz; names as in `inputs`).
        ends: those of the smallest and the largest call, whose memory is measured.
        only_memory: measure nothing else.
    """

    kind: Literal["graph"] = "graph"
    only_memory: bool = False
    target: str
    device: str
    precision: str
    stored: str = ""
    compute: str = AUTO
    schemes: dict[str, float] = {}
    approximations: dict[str, float] = {}
    tolerance: dict[str, float] = {}
    model_file: str
    built: Built = {}
    model: ModelSpec | None = None
    component: str
    library: str
    class_name: str
    folder: str
    method: str
    arguments: dict[str, Tree]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: dict[str, Tree] = {}
    settings: dict[str, tuple[str, ...]] = {}
    points: tuple[str, ...]
    ends: tuple[str, ...] = ()


class Beyond(LatentcError):
    """A graph's outputs are beyond their limit.

    Attributes:
        compute: the type that it was computed in. limit: of each output's relative error.
    """

    def __init__(self, message: str, hint: str, compute: str, limit: float) -> None:
        super().__init__(message, hint)
        self.compute, self.limit = compute, limit


class Errors(BaseModel):
    """Errors of one type: of each output, and PyTorch's own in that type (0: not known); and what memory it took."""

    errors: dict[str, float]
    noise: float = 0.0
    memory: MemoryUse | None = None


def memory_needed(parameters: int) -> int:
    """Bytes that a check takes at its peak: the component in fp32, loaded by PyTorch and then by the runtime."""
    return _BASE_MEMORY + int(parameters * 4 * 1.3)


class Checker:
    """Checks graphs in one subprocess, started at the first. Use it as a context manager."""

    def __init__(self) -> None:
        self._worker = Worker(serving("compiler.evidence.graph_measurement:checking"))

    def __enter__(self) -> Checker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._worker.close()

    def ask(self, job: BaseModel) -> Any:
        """The answer of the process to a job, of a graph or of pipelines; the job after one that ended it has another.

        Raises:
            WorkerError: see `artifacts.worker.Worker.ask`.
        """
        try:
            return self._worker.ask(job)
        except WorkerEnded:
            self._worker.close()
            raise

    def run(self, job: GraphCheckJob, check: str) -> tuple[Evidence, ...]:
        """What was measured, for each type; of a check that the system ended for its memory, what the graph takes.

        Raises:
            LatentcError: an output is beyond the tolerance or not finite, or the check itself failed.
        """
        try:
            answer = self.ask(job)
        except WorkerError as error:
            if isinstance(error, WorkerEnded) and error.out_of_memory:
                return self.memory(job, error.message.splitlines()[0])
            raise LatentcError(
                f"the check of '{job.component}.{job.method}' failed: {error.message}",
                "Compile without it: --check none" if isinstance(error, WorkerEnded) else error.hint,
            ) from error
        if "lacks" in answer:
            return (Evidence(check="not measured", reason=f"needs {answer['lacks']}"),)
        if "undefined" in answer:
            return (Evidence(check="not measured", reason=answer["undefined"]),)
        by_type = {kind: Errors.model_validate(errors) for kind, errors in answer["types"].items()}
        return tuple(
            judge(job, kind, errors, check, answer["device"], spare=kind != WIDE and WIDE in by_type)
            for kind, errors in by_type.items()
        )

    def memory(self, job: GraphCheckJob, reason: str) -> tuple[Evidence, ...]:
        """What a graph takes in memory in its usual type, where its errors are not measured; nothing where that fails.

        Args:
            reason: why they are not.
        """
        evidence = Evidence(check="not measured", reason=reason)
        try:
            answer = self.ask(job.model_copy(update={"only_memory": True}))
        except WorkerError:
            return (evidence,)
        if answer.get("memory") is None:
            return (evidence,)
        memory = MemoryUse.model_validate(answer["memory"])
        return (
            evidence.model_copy(
                update={"compute": answer["compute"], "device": answer["device"], "memory": memory}
            ),
        )


def limit(job: GraphCheckJob, compute: str, noise: float) -> float:
    """The largest error allowed of a graph that is computed in `compute`.

    Args:
        noise: PyTorch's own error in that type; 0 where it is not known.
    """
    by_type = TOLERANCE | job.tolerance
    constant = max(
        (
            by_type[job.stored or job.precision],
            by_type[compute],
            *job.schemes.values(),
            *job.approximations.values(),
        )
    )
    return max(constant, min(OWN_NOISE * noise, LARGEST))


def judge(
    job: GraphCheckJob,
    compute: str,
    measurement: Errors,
    check: str,
    device: str = "cpu",
    spare: bool = False,
) -> Evidence:
    """The errors in one type as evidence.

    Args:
        spare: whether the graph can be computed in fp32 where it fails in this type.

    Raises:
        LatentcError: an error is over its limit (NaN is), and there is no spare.
    """
    errors, tolerance = measurement.errors, limit(job, compute, measurement.noise)
    bad = {name: error for name, error in errors.items() if not error <= tolerance}
    if bad:
        violations = ", ".join(
            f"{name} {error:.2g}" if error == error else f"{name} not finite" for name, error in bad.items()
        )
        if spare:
            return Evidence(
                compute=compute,
                device=device,
                check="full" if check == "full" else "quick",
                error={name: error for name, error in errors.items() if math.isfinite(error)},
                tolerance=tolerance,
                broken=f"relative error of {violations}; at most {tolerance:.2g} is allowed",
                memory=measurement.memory,
            )
        scheme = max(job.schemes, key=job.schemes.__getitem__, default="")
        approximated = ", ".join(job.approximations)
        hint = _wider(job)
        if approximated:
            hint = f"Compile it without --approximate {approximated}."
        elif scheme:
            hint = f"Compile it without --quantize, or with more bits than {scheme}'s for '{job.component}'."
        raise Beyond(
            f"'{job.component}.{job.method}' is not PyTorch's: relative error of {violations}; at most {tolerance:g} "
            f"is allowed in {approximated or scheme or job.stored or job.precision}.",
            hint,
            compute,
            tolerance,
        )
    return Evidence(
        compute=compute,
        device=device,
        check="full" if check == "full" else "quick",
        error=dict(errors),
        tolerance=tolerance,
        memory=measurement.memory,
    )


def _wider(job: GraphCheckJob) -> str:
    """What to try where a graph's type is too narrow for it, as an autoencoder's that overflows in fp16."""
    if job.precision == WIDE:
        return "Please report the model."
    return (
        f"Compile this component alone in fp32: --quantize {job.component}=fp32; if it fails there too, please report "
        "the model."
    )
