"""Runs the pipeline over all its timesteps with one component replaced by its graph, and collects what it is asked
for: the taps of a tapped graph, or the inputs of a few calls.

`run` is the compiler's side, `collecting` is the other's, in a process of its own. The component under calibration is
never loaded by PyTorch, the others are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from artifacts.errors import LatentcError
from artifacts.manifest import ComponentRecord, GraphSpec, ModelSpec
from artifacts.progress import Event, Progress
from artifacts.worker import WorkerError, ask
from artifacts.worker_loop import Work
from compiler.capture.arguments import visual_arguments
from compiler.evaluation import TASK, Evaluation


class CalibrationJob(BaseModel):
    """One run.

    Attributes:
        model, variant, pipeline: what it is made of, the variant of its weight files, the pipeline's class path.
        target: whose session runs the graph.
        root: what the records' paths are relative to.
        component, graph: the tapped graph and the component it stands for.
        taps: the name of the additional output; empty where the graph is not tapped.
        keep: how many calls' inputs are wanted, spread evenly over all calls, where it is not tapped.
        result: the file that receives the taps, float32 [calls, taps] (npy), or the inputs (npz).
    """

    model: ModelSpec
    variant: str | None
    pipeline: str
    target: str
    root: str
    component: ComponentRecord
    graph: GraphSpec
    taps: str = ""
    keep: int = 0
    evaluation: Evaluation
    width: int
    height: int
    result: str


def taps(job: CalibrationJob, progress: Progress) -> np.ndarray:
    """The taps of every call of the component, float32 [calls, taps].

    Raises:
        LatentcError: the pipeline does not run, or never calls the component, or an activation is not finite.
    """
    _run(job, f"measuring activations on {len(job.evaluation.prompts)} prompts", progress)
    values: np.ndarray = np.load(job.result)
    if not np.isfinite(values).all():
        raise LatentcError(
            f"the activations of '{job.component.name}' cannot be measured: some are not finite in "
            f"{job.graph.precision}.",
            f"Quantize its weights only: --quantize {job.component.name}=int8",
        )
    return values


def record(job: CalibrationJob, progress: Progress) -> None:
    """Leaves the graph's inputs of `job.keep` calls at most in `job.result`, for `read_inputs`.

    Raises:
        LatentcError: see `taps`.
    """
    _run(job, "recording calls", progress)


def read_inputs(file: Path) -> list[dict[str, np.ndarray]]:
    """The recorded calls: input name -> array."""
    calls: dict[str, dict[str, np.ndarray]] = {}
    with np.load(file) as arrays:
        for name in arrays.files:
            number, _, key = name.partition("/")
            calls.setdefault(number, {})[key] = arrays[name]
    return list(calls.values())


def _run(job: CalibrationJob, what: str, progress: Progress) -> None:
    task = f"{job.graph.folder}: {what}"
    progress(Event(task, 0, None))
    try:
        ask(f"{__name__}:collecting", job)
    except WorkerError as error:
        raise LatentcError(
            f"the calibration of '{job.component.name}' failed: {error.message}",
            f"Quantize its weights only: --quantize {job.component.name}=int8",
        ) from error
    progress(Event(task, 1, 1))


class Tapped:
    """Stands between a shell and the session: keeps the taps of each call, hands on the rest."""

    def __init__(self, job: CalibrationJob) -> None:
        from runtimes.compute import WIDE, device_of, natively
        from runtimes.sessions import session_table

        self._graph = job.graph
        self._taps = job.taps
        factory = session_table.get(job.target)
        device = device_of(factory, "auto")
        types = (WIDE,) if device is None else natively(device, job.graph.precision)
        # What is measured is the graph, not the rounding of a type.
        compute = WIDE if WIDE in types else types[0]
        self._session = factory.open(
            Path(job.root) / job.graph.model_file, "auto", compute, None, job.graph.built
        )
        self.taps: list[np.ndarray] = []
        self.inputs: list[dict[str, np.ndarray]] = []

    def record(self, graph: str) -> GraphSpec:
        """The one graph."""
        return self._graph

    def open(self, graph: str) -> None:
        """It is open."""

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph; see `runtimes.graphs.Graphs.run`."""
        outputs = self._session.run({n: a for n, a in inputs.items() if n in self._session.inputs})
        if self._taps:
            self.taps.append(np.array(outputs.pop(self._taps)))
        else:
            self.inputs.append({name: np.array(array) for name, array in inputs.items()})
        return outputs


# Components of more bytes leave memory between their calls.
_LARGE = 64 << 20


def _rest(pipeline: Any, shell: Any, folder: Path) -> None:
    """PyTorch's large components stay on disk and are read layer by layer: the graph needs the memory."""
    import torch
    from accelerate import disk_offload

    for name, part in pipeline.components.items():
        if not isinstance(part, torch.nn.Module) or part is shell:
            continue
        if sum(p.numel() * p.element_size() for p in part.parameters()) > _LARGE:
            disk_offload(part, str(folder / f"{name}-resting"), torch.device("cpu"))


def _called(pipeline: Any, job: CalibrationJob, tapped: Tapped, arguments: Mapping[str, Any]) -> bool:
    """Draws the prompts; whether the component was called. Stops after the first one that does not call it.

    Raises:
        ValueError: the pipeline does not take `arguments`, which asks for pictures.
    """
    import torch

    for seed, prompt in enumerate(job.evaluation.prompts):
        # Other seeds than those that pictures are compared with.
        generator = torch.Generator("cpu").manual_seed(10_000 + seed)
        try:
            pipeline(prompt, generator=generator, **arguments)
        except ValueError:
            if arguments["output_type"] != "latent":
                raise
            return False  # Some pipelines do not give their latents away.
        if not tapped.taps and not tapped.inputs:
            return False
    return True


def _draw(pipeline: Any, job: CalibrationJob, tapped: Tapped, arguments: Mapping[str, Any]) -> None:
    """Draws the prompts. Decoding a large picture takes gigabytes: only for components that are called for it."""
    for output_type in ("latent", "np"):
        tapped.taps.clear()
        tapped.inputs.clear()
        if _called(pipeline, job, tapped, {**arguments, "output_type": output_type}):
            return


def collect(job: CalibrationJob) -> dict[str, str]:
    """Runs the pipeline in this process and writes `job.result`; the answer holds at most a "failure"."""
    from compiler.capture import materialized
    from runtimes.meter import Meter
    from runtimes.shell import build_shell

    tapped, meter = Tapped(job), Meter()
    shell = build_shell(job.component, Path(job.root), tapped, lambda: meter)
    components = {job.component.name: shell}
    pipeline = materialized.load(
        job.model, job.pipeline, variant=job.variant, components=components
    ).diffusers
    _rest(pipeline, shell, Path(job.result).parent)
    arguments: dict[str, Any] = {"num_inference_steps": job.evaluation.steps}
    arguments |= {"width": job.width, "height": job.height}
    if job.evaluation.guidance is not None:
        arguments["guidance_scale"] = job.evaluation.guidance
    failures: list[Exception] = []
    for visuals in visual_arguments(pipeline, TASK, job.height, job.width):
        try:
            _draw(pipeline, job, tapped, arguments | visuals)
            break
        except LatentcError:
            raise
        except Exception as error:  # Pipelines say in as many ways that a picture is missing.
            failures.append(error)
    else:
        raise failures[0]
    if not tapped.taps and not tapped.inputs:
        return {"failure": "the pipeline never called it"}
    if job.taps:
        with Path(job.result).open("wb") as file:
            np.save(file, np.stack(tapped.taps))
    else:
        count = min(job.keep, len(tapped.inputs))
        chosen = [tapped.inputs[i * (len(tapped.inputs) - 1) // max(count - 1, 1)] for i in range(count)]
        arrays: dict[str, Any] = {f"{i}/{n}": a for i, call in enumerate(chosen) for n, a in call.items()}
        np.savez(job.result, **arrays)
    return {}


def collecting() -> Work:
    """The work of the process that draws."""
    return lambda line: collect(CalibrationJob.model_validate_json(line))
