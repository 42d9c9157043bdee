"""Is a compiled graph PyTorch's? Both get the same inputs, one after the other, in a process of their own.

`Checker` is the compiler's side, `checking` is the other's. One process answers all jobs: one start of the libraries
serves a whole compile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from pydantic import BaseModel

from artifacts.errors import LatentcError
from artifacts.manifest import AnyLeaf, Built, Evidence, TensorSpec, Tree
from artifacts.serve import Work
from artifacts.worker import Worker, WorkerEnded, WorkerError, serving

TOLERANCE: dict[str, float] = {
    "fp32": 1e-3, "fp16": 1e-2, "bf16": 6e-2, "int8": 0.15, "int8-activations": 0.3, "int4": 0.6, "nf4": 0.6,
}  # fmt: skip
"""Largest ``||out - ref|| / ||ref||`` of any output, by precision and by weight scheme. Rounding weights to 11
or 8 bits gives about a tenth of this through the depth of these networks; a wrong graph gives about 1. Rounding
them to 4 bits moves each weight by a tenth of its size: that check finds a wrong graph, and whether the pictures
are good is for pictures to say."""

# A PyTorch process and a runtime, without any model, in bytes.
_BASE_MEMORY = 900 * 2**20


class Job(BaseModel):
    """One graph to check.

    Attributes:
        target, device, precision, model_file, built: what a session opens.
        schemes: of the graph's quantized weights.
        library, class_name, folder: what PyTorch loads.
        component, method, arguments, inputs, outputs, state: how it is called.
        points: files of inputs, one for each set of shapes (npz; names as in `inputs`).
    """

    target: str
    device: str
    precision: str
    schemes: tuple[str, ...] = ()
    model_file: str
    built: Built = {}
    component: str
    library: str
    class_name: str
    folder: str
    method: str
    arguments: dict[str, Tree]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: dict[str, Tree] = {}
    points: tuple[str, ...]


def memory_needed(parameters: int) -> int:
    """Bytes that a check takes at its peak: the component in fp32, loaded by PyTorch and then by the runtime."""
    return _BASE_MEMORY + int(parameters * 4 * 1.3)


class Checker:
    """Checks graphs in one subprocess, started at the first. Use it as a context manager."""

    def __init__(self) -> None:
        self._worker = Worker(serving(f"{__name__}:checking"))

    def __enter__(self) -> Checker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._worker.close()

    def run(self, job: Job, check: str) -> Evidence:
        """What was measured.

        Raises:
            LatentcError: an output is beyond the tolerance or not finite, or the check itself failed.
        """
        try:
            answer = self._worker.ask(job)
        except WorkerError as error:
            raise LatentcError(
                f"the check of '{job.component}.{job.method}' failed: {error.message}",
                "Compile without it: --check none" if isinstance(error, WorkerEnded) else error.hint,
            ) from error
        if "lacks" in answer:
            return Evidence(check="not measured", reason=f"needs {answer['lacks']}")
        return judge(job, answer["errors"], check)


def judge(job: Job, errors: Mapping[str, float], check: str) -> Evidence:
    """`errors` as evidence.

    Raises:
        LatentcError: one of them is over the tolerance of the job's precision (NaN is).
    """
    tolerance = max(TOLERANCE[name] for name in (job.precision, *job.schemes))
    bad = {name: error for name, error in errors.items() if not error <= tolerance}
    if bad:
        what = ", ".join(
            f"{name} {error:.2g}" if error == error else f"{name} not finite" for name, error in bad.items()
        )
        scheme = max(job.schemes, key=TOLERANCE.__getitem__, default="")
        raise LatentcError(
            f"'{job.component}.{job.method}' is not PyTorch's: relative error of {what}; at most {tolerance:g} is "
            f"allowed in {scheme or job.precision}.",
            f"Compile it without --quantize, or with more bits than {scheme}'s for '{job.component}'."
            if scheme
            else "Compile it in --precision fp32; if it fails there too, please report the model.",
        )
    return Evidence(check="full" if check == "full" else "quick", error=dict(errors), tolerance=tolerance)


def relative_error(out: np.ndarray, reference: np.ndarray) -> float:
    """``||out - reference|| / ||reference||`` over the reference's finite elements, in float64.

    NaN when `out` is not finite where the reference is, or when shapes differ.
    """
    if out.shape != reference.shape:
        return float("nan")
    finite = np.isfinite(reference)
    if not np.isfinite(out[finite]).all():
        return float("nan")
    a, b = out[finite].astype(np.float64), reference[finite].astype(np.float64)
    norm = float(np.linalg.norm(b))
    distance = float(np.linalg.norm(a - b))
    return distance / norm if norm else distance


def _answer(job: Job) -> dict[str, Any]:
    """What this machine lacks to run the graph, or the worst error of each output over the job's points."""
    from runtimes import table

    factory = table.get(job.target)
    if lacks := factory.lacks(job.built):
        return {"lacks": lacks}
    points = [dict(np.load(file)) for file in job.points]
    references = _reference(job, points)
    session = factory.open(Path(job.model_file), job.device, job.precision, None, job.built)
    worst: dict[str, float] = {}
    try:
        for point, reference in zip(points, references, strict=True):
            outputs = session.run({name: np.asarray(point[name], order="C") for name in session.inputs})
            for spec, expected in zip(job.outputs, reference, strict=True):
                error = relative_error(outputs[spec.name], expected)
                worst[spec.name] = float(np.maximum(worst.get(spec.name, 0.0), error))  # NaN stays
    finally:
        session.close()
    return {"errors": worst}


def variant(files: Sequence[Path]) -> str | None:
    """ "model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors" -> "fp16"."""
    parts = files[0].name.split(".") if files else []
    return parts[1].split("-0")[0] if len(parts) == 3 else None


def _reference(job: Job, points: list[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
    """PyTorch's outputs in fp32, the module loaded by its own library: that checks the binding of weights too."""
    import torch

    from compiler.capture.calls import MethodCall
    from compiler.capture.infer import Method
    from compiler.source import ComponentSource

    source = ComponentSource(job.component, job.library, job.class_name, Path(job.folder))
    kind = variant(source.weight_files)
    cls: Any = source.cls
    module = cls.from_pretrained(job.folder, torch_dtype=torch.float32, variant=kind, use_safetensors=True)
    method = Method(
        job.component,
        job.method,
        folder="",
        arguments=job.arguments,
        result=AnyLeaf(),
        inputs=job.inputs,
        outputs=job.outputs,
        dims={},
        shapes=(),
        state=job.state,
    )
    call = MethodCall(module.eval(), method)
    results = []
    with torch.no_grad():
        for point in points:
            tensors = [torch.from_numpy(point[spec.name]) for spec in job.inputs]
            results.append([tensor.numpy() for tensor in call(*tensors)])
    return results


def checking() -> Work:
    """The work of the process that checks."""
    return lambda line: _answer(Job.model_validate_json(line))
