"""Does an artifact's pipeline draw PyTorch's picture? What no check of a component sees shows here: a scheduler's other
setting, an input in another's place, a module that was captured in another state than it is called in.

PyTorch's pipelines draw first, one small picture of two steps for each task, and every call of a component is kept.
Then the artifact draws each picture twice. The pipeline's own call draws it from its graphs alone. In `generate`, each
component gives back what PyTorch's gave at that call: there the loop, the scheduler and what components are called
with must be PyTorch's but for rounding, whatever precision the weights have.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from artifacts.contents import Contents, Folder
from artifacts.error_text import class_and_line
from artifacts.errors import LatentcError
from artifacts.evidence_records import PipelineEvidence
from artifacts.memory import available
from artifacts.progress import Event, Progress, silent
from artifacts.worker import WorkerEnded, WorkerError
from compiler.evidence.component_calls import Difference
from compiler.evidence.drawing_jobs import PipelineJob
from compiler.evidence.graph_evidence import Checker
from compiler.evidence.output_arrays import arrays_in, drawn_arrays, held_error
from compiler.evidence.picture_limits import component_limits, picture_limit, scheme_tolerances
from compiler.evidence.reference_drawing import (
    DRAWN_STEPS,
    Reference,
    call_seeded,
    component_methods,
    draw_references,
)
from runtimes.compute import AUTO, device_of, types_to_check

LOOP = 1e-4
"""Largest relative error of what a component is given, and of the picture, where all that components gave back is
PyTorch's: both sides run the same code in fp32, and the order of sums may differ."""

SMALL = 2_000_000
"""Parameters of a model that one thread draws with."""


def check(checker: Checker, job: PipelineJob, progress: Progress) -> tuple[PipelineEvidence, ...]:
    """Has the process that checks graphs draw each of the artifact's tasks. What the system ends for its memory is not
    measured.

    Raises:
        LatentcError: the artifact does not draw what PyTorch draws, or the check itself failed.
    """
    title = f"drawing {DRAWN_STEPS} steps with PyTorch and with the artifact"
    progress(Event(title, 0, None))
    try:
        full_job = job.model_copy(update={"scheme_tolerances": scheme_tolerances(job.manifest)})
        evidence = checker.ask(full_job)
    except WorkerError as error:
        if isinstance(error, WorkerEnded) and error.out_of_memory:
            reason = error.message.splitlines()[0]
            return tuple(
                PipelineEvidence(task=task, check="not measured", reason=reason)
                for task in job.manifest.pipelines
            )
        raise LatentcError(
            error.message
            if not isinstance(error, WorkerEnded)
            else f"the check of the pipeline failed: {error}",
            "Compile without it: --check none" if isinstance(error, WorkerEnded) else error.hint,
        ) from error
    progress(Event(title, 1, 1))
    return tuple(PipelineEvidence.model_validate(row) for row in evidence)


def answer(job: PipelineJob) -> list[PipelineEvidence]:
    """Evidence of every task.

    Raises:
        LatentcError: a picture, or what a component is given or gives back, is further off than it may be, or the
            artifact does not draw what PyTorch draws.
    """
    parameters = sum(graph.parameters for graph in job.manifest.graphs)
    with _threads(parameters):
        drawn = draw_references(job)
        if parameters >= SMALL:
            gc.collect()  # PyTorch's weights, before the graphs'
        graphs, compute, device = _graphs(job)
        try:
            return [
                PipelineEvidence(task=task, check="not measured", reason=reference.reason)
                if reference.reason
                else _compared(job, task, reference, graphs, compute, device)
                for task, reference in drawn.items()
            ]
        finally:
            graphs.close()


@contextmanager
def _threads(parameters: int) -> Iterator[None]:
    """One thread for a small model: its tensors take PyTorch ten times as long on several."""
    import torch

    before = torch.get_num_threads()
    if parameters < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Layered:
    """The files of two folders: those of the first, and of the second what the first does not have."""

    verified = False

    def __init__(self, *folders: Contents) -> None:
        self._folders = folders

    def _of(self, path: str) -> Contents:
        first, second = self._folders
        return first if path in first.names("") else second

    def shown(self, path: str) -> str:
        return self._of(path).shown(path)

    def names(self, folder: str) -> tuple[str, ...]:
        return tuple(sorted({name for files in self._folders for name in files.names(folder)}))

    def read(self, path: str) -> bytes:
        return self._of(path).read(path)


def _graphs(job: PipelineJob) -> tuple[Any, str, str]:
    """The artifact's graphs, in fp32 where its device computes in that; the type of most, and the device."""
    from runtimes.graphs import Graphs
    from runtimes.sessions import session_table

    device = device_of(session_table.get(job.manifest.target), AUTO)
    compute, requested = next(iter(types_to_check(device, job.manifest.graphs).items()))
    graphs = Graphs(Path(job.root), job.manifest, AUTO, None, silent, requested, budget=available())
    return graphs, compute, "cpu" if device is None else device.name


def _compared(
    job: PipelineJob, task: str, reference: Reference, graphs: Any, compute: str, device: str
) -> PipelineEvidence:
    from runtimes.pipeline import Pipeline

    files = _Layered(Folder(Path(job.loose)), Folder(Path(job.root)))
    pipeline = Pipeline(Path(job.root), job.manifest, task, graphs, files=files)
    pipeline.set_progress_bar_config(disable=True)
    sizes = job.manifest.sizes
    tolerance = picture_limit(job.manifest.graphs, compute, job.scheme_tolerances)
    error = held_error(
        f"the artifact's {task} picture",
        drawn_arrays(task, lambda: call_seeded(pipeline.diffusers, pipeline, reference.keywords)),
        reference.outputs,
        tolerance,
    )
    loop, unmeasured = _loop(job, task, reference, pipeline, compute)
    return PipelineEvidence(
        task=task,
        check=job.check,
        compute=compute,
        device=device,
        width=sizes["width"].min,
        height=sizes["height"].min,
        steps=_asked_steps(reference.keywords),
        error=error,
        tolerance=tolerance,
        calls=len(reference.calls),
        loop=loop,
        reason=unmeasured,
    )


def _asked_steps(keywords: Mapping[str, Any]) -> int:
    from runtimes.generate_options import SYNONYMS

    return next((int(keywords[name]) for name in SYNONYMS["steps"] if name in keywords), 0)


def _loop(
    job: PipelineJob, task: str, reference: Reference, pipeline: Any, compute: str
) -> tuple[float | None, str]:
    """The largest error of what `generate` gives to components and of its picture, components giving back PyTorch's.

    Returns:
        The error, and why there is none: this pipeline cannot be called by `generate` alone.
    """
    methods = component_methods(job.manifest, pipeline.diffusers)
    limits = component_limits(job.manifest, compute, job.scheme_tolerances)
    try:
        with reference.calls.replaying(methods, LOOP, limits) as worst:
            result = pipeline.generate(**_options(reference.keywords))
    except Difference as difference:
        raise LatentcError(
            f"the artifact's {task} pipeline is not PyTorch's: {difference}",
            "Compile it without this check: --check none. Please report the model.",
        ) from None
    except (
        Exception
    ) as error:  # an option of ours that is none of the pipeline's, or is called otherwise there
        return None, f"`generate` does not draw it: {class_and_line(error)}"
    outputs = arrays_in({**result.outputs, **({"images": result.images} if result.images else {})})
    picture = held_error(f"`generate`'s {task} picture", outputs, reference.outputs, LOOP)
    return max(picture, worst.inputs), ""


def _options(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """`generate`'s keywords for a pipeline's own."""
    from runtimes.generate_options import SYNONYMS

    ours = {name: option for option, names in SYNONYMS.items() for name in names}
    options: dict[str, Any] = {"seed": 0}
    for name, value in keywords.items():
        option = ours.get(name, name)
        # A row in a grid of pictures is not the one picture of a batch.
        singleton = isinstance(value, (list, tuple)) and len(value) == 1 and not isinstance(value[0], list)
        if option in ours.values() and name not in ("width", "height") and option not in options:
            options[option] = value[0] if singleton else value
        elif name not in ("width", "height"):
            options[name] = value
    if "width" in keywords and "height" in keywords:
        options["size"] = (keywords["width"], keywords["height"])
    return options
