"""What a `Checker`'s process does: a graph and PyTorch's module get the same inputs, and their outputs are compared.

`checking` is the loop that it runs; one start of the libraries serves all jobs of a compile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from artifacts.call_trees import AnyLeaf
from artifacts.manifest import GraphSpec
from artifacts.memory import available
from artifacts.resident import release
from artifacts.worker_loop import Work
from compiler.evidence.graph_evidence import Errors, GraphCheckJob
from compiler.evidence.memory_use import WHOLE_OPENING, MemoryMeter, PartsMeter, process_memory, with_cuts
from compiler.evidence.metrics import relative_error, undefined
from runtimes.compute import AUTO, WIDE, device_of, natively, worth_measuring
from runtimes.guard import guarded
from runtimes.model_view import component_view
from runtimes.sessions.session_contract import SessionFactory


def _undefined(job: GraphCheckJob, references: Sequence[Sequence[np.ndarray]]) -> str:
    """Why a job cannot be measured, for people; empty when it can."""
    if not job.outputs or not references:
        return "there is no output to compare"
    reasons = (
        f"PyTorch's own '{spec.name}' {why}"
        for outputs in references
        for spec, expected in zip(job.outputs, outputs, strict=True)
        if (why := undefined(expected))
    )
    return next(reasons, "")


def measure(job: GraphCheckJob) -> dict[str, Any]:
    """What this machine lacks to run the graph, why PyTorch's outputs are no reference ("undefined"), or for each type
    the worst error of each output over the points."""
    from runtimes.sessions import session_table

    factory = session_table.get(job.target)
    if lacks := factory.lacks(job.built):
        return {"lacks": lacks}
    device = device_of(factory, job.device)
    types = (job.precision,) if device is None else natively(device, job.precision)
    types = worth_measuring(types) if job.compute == AUTO else (job.compute,)
    if job.only_memory:
        return _memory(job, factory, types[-1])
    points = [dict(np.load(file)) for file in job.points]
    process_memory()
    references, noise = _reference(job, points, [kind for kind in types if kind != WIDE])
    if why := _undefined(job, references):
        return {"undefined": why}
    by_type: dict[str, Any] = {}
    name = job.device
    for kind in types:
        meter = MemoryMeter(job.inputs)
        session = meter.open(partial(factory.open, Path(job.model_file), job.device, kind, None, job.built))
        name = session.device
        try:
            meter.call(session, [dict(np.load(file)) for file in job.ends])
            memory = meter.use()
            outputs = [
                session.run({name: np.asarray(point[name], order="C") for name in session.inputs})
                for point in points
            ]
        finally:
            session.close()
            del session
            release()
        memory = with_cuts(memory, factory, Path(job.model_file), job.device, kind)
        ours = [[values[spec.name] for spec in job.outputs] for values in outputs]
        errors = dict(zip((spec.name for spec in job.outputs), _worst(ours, references), strict=True))
        by_type[kind] = Errors(errors=errors, noise=noise.get(kind, 0.0), memory=memory).model_dump()
    return {"device": name, "types": by_type}


def _memory(job: GraphCheckJob, factory: SessionFactory, compute: str) -> dict[str, Any]:
    """What opening and the calls of `ends` take, of the whole graph where memory holds that, else of its parts."""
    process_memory()
    file = Path(job.model_file)
    ends = [dict(np.load(end)) for end in job.ends]
    weights = sum(entry.stat().st_size for entry in file.parent.iterdir())
    if available() < WHOLE_OPENING * weights:
        graph = GraphSpec(
            folder=file.parent.name,
            model_file=file.name,
            inputs=job.inputs,
            outputs=job.outputs,
            dims={},
            precision=job.precision,
        )
        use = PartsMeter(factory, graph, file.parent, job.device, compute).use(ends)
    else:
        meter = MemoryMeter(job.inputs)
        session = meter.open(partial(factory.open, file, job.device, compute, None, job.built))
        try:
            meter.call(session, ends)
            use = with_cuts(meter.use(), factory, file, job.device, compute)
        finally:
            session.close()
    device = device_of(factory, job.device)
    return {
        "device": "" if device is None else device.name,
        "compute": compute,
        "memory": None if use is None else use.model_dump(),
    }


def _worst(
    graph_outputs: Sequence[Sequence[np.ndarray]], references: Sequence[Sequence[np.ndarray]]
) -> list[float]:
    """The largest error of each output over the points; NaN is the largest."""
    errors = [
        [relative_error(*pair) for pair in zip(outputs, expected, strict=True)]
        for outputs, expected in zip(graph_outputs, references, strict=True)
    ]
    return [float(worst) for worst in np.max(errors, axis=0)]  # which keeps NaN


def _reference(
    job: GraphCheckJob, points: list[dict[str, np.ndarray]], types: Sequence[str]
) -> tuple[list[list[np.ndarray]], dict[str, float]]:
    """PyTorch's outputs in fp32, a folder's module loaded by its own library: that checks the binding of weights too.

    Returns:
        The outputs of each point, and for each of `types` the worst error of PyTorch's outputs in it; a type that
        PyTorch cannot compute in, or in which it is not finite, is left out.
    """
    import torch

    call = loaded(job)

    def outputs() -> list[list[np.ndarray]]:
        results = []
        for point in points:
            tensors = [torch.from_numpy(point[spec.name]) for spec in job.inputs]
            results.append([(t.float() if t.is_floating_point() else t).numpy() for t in call(*tensors)])
        return results

    noise: dict[str, float] = {}
    with torch.no_grad():
        references = outputs()
        for kind in types:
            dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[kind]
            # Without its cache of weights: the module in fp32 is all that memory was counted for.
            with suppress(RuntimeError, TypeError), torch.autocast("cpu", dtype, cache_enabled=False):
                worst = float(np.max(_worst(outputs(), references), initial=0.0))  # which keeps NaN
                if math.isfinite(worst):
                    noise[kind] = worst
    return references, noise


def loaded(job: GraphCheckJob) -> Any:
    """The captured call (`compiler.capture.calls.MethodCall`) of the module in fp32, loaded by its own library."""
    from compiler.capture.calls import MethodCall
    from compiler.capture.infer import Method

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
        settings=job.settings,
    )
    return MethodCall(_module(job), method)


_last: dict[str, Any] = {}


def _module(job: GraphCheckJob) -> Any:
    """The job's component in PyTorch. That of a part is kept, as the next job is often of another part of it."""
    import torch

    from compiler.capture import materialized
    from compiler.model_source import ComponentSource
    from compiler.source import open_model

    if job.model is not None:
        return materialized.module(open_model(job.model), job.component)
    key = f"{job.library}.{job.class_name} {job.folder}"
    cacheable = "." in job.method and not job.state
    module = _last.get(key) if cacheable else None
    _last.clear()
    if module is None:
        source = ComponentSource(job.component, job.library, job.class_name, Path(job.folder))
        cls: Any = source.cls
        subject = f"'{job.component}', loaded from {job.folder},"
        with component_view(Path(job.folder)) as view, guarded(subject):
            module = cls.from_pretrained(
                view,
                torch_dtype=torch.float32,
                variant=source.variant,
                use_safetensors=True,
                local_files_only=True,
            ).eval()
    if cacheable:
        _last[key] = module
    return module


def checking() -> Work:
    """The work of the process that checks: graphs, and the pipelines that they are parts of."""

    def work(line: str) -> Any:
        from compiler.evidence import drawing_jobs, pipeline_check, quantized_pictures

        kind = json.loads(line)["kind"]
        if kind == "graph":
            return measure(GraphCheckJob.model_validate_json(line))
        evidence: Sequence[BaseModel] = (
            quantized_pictures.answer(drawing_jobs.PictureJob.model_validate_json(line))
            if kind == "pictures"
            else pipeline_check.answer(drawing_jobs.PipelineJob.model_validate_json(line))
        )
        return [row.model_dump(mode="json") for row in evidence]

    return work
