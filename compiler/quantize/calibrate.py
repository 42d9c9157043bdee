"""Runs the pipeline over all its timesteps with one component replaced by its graph, and records what it is called
with, once; graphs that are tapped are then run on these calls (`compiler.quantize.replay`).

`record` is the compiler's side, `collecting` is the other's, in a process of its own. The component under calibration
is never loaded by PyTorch, the others are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from artifacts.errors import LatentcError
from artifacts.manifest import ComponentRecord, GraphSpec, ModelSpec
from artifacts.processors import processors
from artifacts.progress import Event, Progress
from artifacts.worker import WorkerError, ask
from artifacts.worker_loop import Work, tell
from compiler.capture.arguments import visual_arguments
from compiler.evaluation import TASK, Evaluation
from runtimes.compute import device_of

if TYPE_CHECKING:
    from runtimes.sessions.session_contract import Session

SECONDS = 40.0
"""What drawing may take, beyond one picture of `FEWEST_STEPS`; and each graph that is tapped."""

FEWEST_STEPS = 4

_MOST_BYTES = 256 << 20
"""Of recorded inputs; of larger ones, fewer calls are kept."""


class CalibrationJob(BaseModel):
    """One run.

    Attributes:
        model, variant, pipeline: what it is made of, the variant of its weight files, the pipeline's class path.
        target, compute: whose session runs the graph, and the type to compute in.
        root: what the records' paths are relative to.
        component, graph: the component, and the graph that stands for it.
        keep: how many calls' inputs are wanted at most, spread evenly over all calls.
        seconds: what drawing may take; see `SECONDS`.
        result: the file that receives the inputs (npz).
    """

    model: ModelSpec
    variant: str | None
    pipeline: str
    target: str
    compute: str
    root: str
    component: ComponentRecord
    graph: GraphSpec
    keep: int | None = None
    seconds: float
    evaluation: Evaluation
    width: int
    height: int
    result: str


@dataclass(frozen=True)
class Recorded:
    """What was drawn: so many prompts in so many steps, and the calls that were kept of it."""

    prompts: int
    steps: int
    calls: int


def record(job: CalibrationJob, progress: Progress) -> Recorded:
    """Leaves the graph's inputs of `job.keep` calls at most in `job.result`, for `read_inputs`.

    Fewer prompts are drawn, and fewer steps, where all of `job.evaluation` would take longer than `job.seconds`.

    Raises:
        LatentcError: the pipeline does not run, or never calls the component.
    """
    task = f"{job.graph.folder}: recording calls"
    progress(Event(task, 0, None))

    def report(count: Any) -> None:
        progress(Event(task, int(count), None, "calls"))

    try:
        recorded = Recorded(**ask(f"{__name__}:collecting", job, report))
    except WorkerError as error:
        raise LatentcError(
            f"the calibration of '{job.component.name}' failed: {error.message}",
            f"Quantize its weights only: --quantize {job.component.name}=int8",
        ) from error
    progress(Event(task, recorded.calls, recorded.calls, "calls"))
    return recorded


def read_inputs(file: Path) -> list[dict[str, np.ndarray]]:
    """The recorded calls: input name -> array."""
    calls: dict[str, dict[str, np.ndarray]] = {}
    with np.load(file) as arrays:
        for name in arrays.files:
            number, _, key = name.partition("/")
            calls.setdefault(number, {})[key] = arrays[name]
    return list(calls.values())


def spread(count: int, of: int) -> tuple[int, ...]:
    """`count` numbers below `of`, the first and the last among them where there are two; all where `count` is more."""
    if count >= of:
        return tuple(range(of))
    return tuple(dict.fromkeys(number * (of - 1) // max(count - 1, 1) for number in range(count)))


def affordable(seconds: float, call_seconds: float, of: int, fewest: int) -> int:
    """How many of `of` are made in so many seconds, where one takes `call_seconds`; `fewest` at least."""
    return min(of, max(fewest, int(seconds / max(call_seconds, 1e-9))))


def clock(target: str, device: str) -> Callable[[], float]:
    """Seconds: those of the processors where they compute, in which other programs have no part; else the clock's.

    Args:
        target: whose session computes.
        device: by the session's own name.
    """
    from runtimes.sessions import session_table

    runtime_device = device_of(session_table.get(target), device)
    if runtime_device is None or not runtime_device.on_host:
        return perf_counter
    count = processors()
    return lambda: process_time() / count


def open_graph(target: str, compute: str, root: Path, graph: GraphSpec) -> Session:
    """A session of one graph of a calibration.

    Args:
        root: what its path is relative to.
    """
    from runtimes.sessions import session_table

    return session_table.get(target).open(root / graph.model_file, "auto", compute, None, graph.built)


class Recorder:
    """Stands between a shell and the session: keeps the inputs of each call."""

    def __init__(self, session: Session, graph: GraphSpec) -> None:
        self._graph = graph
        self._session = session
        self.device = session.device
        self.inputs: list[dict[str, np.ndarray]] = []

    def record(self, graph: str) -> GraphSpec:
        """The one graph."""
        return self._graph

    def open(self, graph: str) -> None:
        """It is open."""

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph; see `runtimes.graphs.Graphs.run`."""
        outputs = self._session.run({n: a for n, a in inputs.items() if n in self._session.inputs})
        self.inputs.append({name: np.array(array) for name, array in inputs.items()})
        tell(len(self.inputs))
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


def draw(
    pipeline: Any, job: CalibrationJob, recorder: Recorder, arguments: Mapping[str, Any]
) -> tuple[int, int] | None:
    """Draws prompts while there is time; how many, and in how many steps.

    A picture in the fewest steps is drawn first: it tells whether the component is called, and how long a step takes.

    Returns:
        None where the component is not called.

    Raises:
        ValueError: the pipeline does not take `arguments`, which asks for pictures.
    """
    import torch

    now = clock(job.target, recorder.device)

    def picture(seed: int, steps: int) -> float:
        """Draws one prompt; its seconds."""
        begun = now()
        # Other seeds than those that pictures are compared with.
        generator = torch.Generator("cpu").manual_seed(10_000 + seed)
        pipeline(job.evaluation.prompts[seed], generator=generator, num_inference_steps=steps, **arguments)
        return now() - begun

    fewest = min(FEWEST_STEPS, job.evaluation.steps)
    try:
        step = picture(0, fewest) / fewest
    except ValueError:
        if arguments["output_type"] != "latent":
            raise
        return None  # Some pipelines do not give their latents away.
    if not recorder.inputs:
        return None
    # Other prompts have other ranges, more than other steps have: few steps of all rather than all steps of few.
    total = len(job.evaluation.prompts)
    steps = affordable(job.seconds / total, step, job.evaluation.steps, fewest)
    spent, prompts = step * fewest, 1
    if steps > fewest:
        recorder.inputs.clear()
        spent, prompts = 0.0, 0
    while prompts < total and spent * (prompts + 1) <= job.seconds * prompts:
        spent += picture(prompts, steps)
        prompts += 1
    return prompts, steps


def drawn(
    pipeline: Any, job: CalibrationJob, recorder: Recorder, arguments: Mapping[str, Any]
) -> tuple[int, int] | None:
    """See `draw`. Decoding a large picture takes gigabytes: only for components that are called for it."""
    for output_type in ("latent", "np"):
        recorder.inputs.clear()
        extent = draw(pipeline, job, recorder, {**arguments, "output_type": output_type})
        if extent is not None:
            return extent
    return None


def collect(job: CalibrationJob) -> dict[str, int]:
    """Runs the pipeline in this process and writes `job.result`; the answer is a `Recorded`.

    Raises:
        LatentcError: the component is never called.
    """
    from compiler.capture import materialized
    from runtimes.meter import Meter
    from runtimes.shell import build_shell

    session = open_graph(job.target, job.compute, Path(job.root), job.graph)
    recorder, meter = Recorder(session, job.graph), Meter()
    shell = build_shell(job.component, Path(job.root), recorder, lambda: meter)
    components = {job.component.name: shell}
    pipeline = materialized.load(
        job.model, job.pipeline, variant=job.variant, components=components
    ).diffusers
    _rest(pipeline, shell, Path(job.result).parent)
    arguments: dict[str, Any] = {"width": job.width, "height": job.height}
    if job.evaluation.guidance is not None:
        arguments["guidance_scale"] = job.evaluation.guidance
    failures: list[Exception] = []
    for visuals in visual_arguments(pipeline, TASK, job.height, job.width):
        try:
            extent = drawn(pipeline, job, recorder, arguments | visuals)
            break
        except LatentcError:
            raise
        except Exception as error:  # Pipelines say in as many ways that a picture is missing.
            failures.append(error)
    else:
        raise failures[0]
    if extent is None:
        raise LatentcError("the pipeline never called it.")
    size = max(sum(array.nbytes for array in call.values()) for call in recorder.inputs)
    keep = min(len(recorder.inputs) if job.keep is None else job.keep, max(1, _MOST_BYTES // max(size, 1)))
    chosen = [recorder.inputs[number] for number in spread(keep, len(recorder.inputs))]
    arrays: dict[str, Any] = {f"{i}/{n}": a for i, call in enumerate(chosen) for n, a in call.items()}
    np.savez(job.result, **arrays)
    return {"prompts": extent[0], "steps": extent[1], "calls": len(chosen)}


def collecting() -> Work:
    """The work of the process that draws."""
    return lambda line: collect(CalibrationJob.model_validate_json(line))
