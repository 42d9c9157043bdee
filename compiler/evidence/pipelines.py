"""Does an artifact's pipeline draw PyTorch's picture? What no check of a component sees shows here: a scheduler's other
setting, an input in another's place, a module that was captured in another state than it is called in.

PyTorch's pipelines draw first, one small picture of two steps for each task, and every call of a component is kept.
Then the artifact draws each picture twice. The pipeline's own call draws it from its graphs alone. In `generate`, each
component gives back what PyTorch's gave at that call: there the loop, the scheduler and what components are called
with must be PyTorch's but for rounding, whatever precision the weights have.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from artifacts.contents import Contents, Folder
from artifacts.errors import LatentcError
from artifacts.manifest import Manifest, ModelSpec, PipelineEvidence
from artifacts.progress import Event, Progress, silent
from artifacts.worker import WorkerEnded, WorkerError
from compiler.capture.arguments import STEPS, Point, arguments, parse_given, retries
from compiler.evidence.components import Calls, Difference
from compiler.evidence.graphs import Checker
from compiler.evidence.limits import component_limits, picture_limit, scheme_tolerances
from compiler.evidence.metrics import relative_error, undefined
from runtimes.compute import AUTO, WIDE, choose, device_of, natively

LOOP = 1e-4
"""Largest relative error of what a component is given, and of the picture, where all that components gave back is
PyTorch's: both sides run the same code in fp32, and the order of sums may differ."""

DRAWN_STEPS = 2

SMALL = 2_000_000
"""Parameters of a model that one thread draws with."""


class Job(BaseModel):
    """What draws: PyTorch's model, and the artifact-to-be.

    Attributes:
        model: what it is made of; `variant` is that of a folder's weight files ("fp16"), if they have one.
        left_out: components of the model that the artifact does not have.
        loose: a folder with the artifact's index, schedulers and tokenizers.
        root: what the manifest's paths are relative to.
        check: "quick" or "full", for the evidence.
        scheme_tolerances: of the weight schemes that the graphs have, told by the process that knows them.
    """

    kind: Literal["pipelines"] = "pipelines"
    model: ModelSpec
    variant: str | None
    left_out: tuple[str, ...]
    loose: str
    root: str
    manifest: Manifest
    check: Literal["quick", "full"]
    scheme_tolerances: dict[str, float] = {}


def check(checker: Checker, job: Job, progress: Progress) -> tuple[PipelineEvidence, ...]:
    """Has the process that checks graphs draw each of the artifact's tasks.

    Raises:
        LatentcError: the artifact does not draw what PyTorch draws, or the check itself failed.
    """
    what = f"drawing {DRAWN_STEPS} steps with PyTorch and with the artifact"
    progress(Event(what, 0, None))
    try:
        known = job.model_copy(update={"scheme_tolerances": scheme_tolerances(job.manifest)})
        evidence = checker.ask(known)
    except WorkerError as error:
        raise LatentcError(
            error.message
            if not isinstance(error, WorkerEnded)
            else f"the check of the pipeline failed: {error}",
            "Compile without it: --check none" if isinstance(error, WorkerEnded) else error.hint,
        ) from error
    progress(Event(what, 1, 1))
    return tuple(PipelineEvidence.model_validate(row) for row in evidence)


@dataclass(frozen=True)
class Reference:
    """One task as PyTorch draws it.

    Attributes:
        keywords: what the pipeline was called with, but for generators.
        outputs: the arrays that it returned, by their place in its output.
        calls: what it asked of components, and what they gave back.
        reason: why there is nothing to compare with; empty where there is.
    """

    keywords: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    calls: Calls = field(default_factory=Calls)
    reason: str = ""


def answer(job: Job) -> list[PipelineEvidence]:
    """Evidence of every task.

    Raises:
        LatentcError: a picture, or what a component is given or gives back, is further off than it may be, or the
            artifact does not draw what PyTorch draws.
    """
    parameters = sum(graph.parameters for graph in job.manifest.graphs)
    with _threads(parameters):
        references = _references(job)
        if parameters >= SMALL:
            gc.collect()  # PyTorch's weights, before the graphs'
        graphs, compute, device = _graphs(job)
        try:
            return [
                PipelineEvidence(task=task, check="not measured", reason=reference.reason)
                if reference.reason
                else _compared(job, task, reference, graphs, compute, device)
                for task, reference in references.items()
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


# --- PyTorch's side ---------------------------------------------------------------------------------------------------


def _references(job: Job) -> dict[str, Reference]:
    """Task -> what PyTorch draws; the model is read once."""
    import torch

    from compiler.capture import materialized
    from compiler.capture.tasks import pipeline_for
    from compiler.source import open_model
    from runtimes.classes import class_path

    try:
        own = class_path(open_model(job.model).pipeline_class())
        left_out = dict.fromkeys(job.left_out)
        pipe = materialized.load(job.model, own, variant=job.variant, components=left_out).diffusers
    except LatentcError as error:
        return dict.fromkeys(job.manifest.pipelines, Reference(reason=error.message))
    except Exception as error:  # of as many libraries as there are components
        reason = f"PyTorch cannot load the model: {_line(error)}"
        return dict.fromkeys(job.manifest.pipelines, Reference(reason=reason))
    with torch.no_grad():
        return {task: _drawn(job, task, pipeline_for(pipe, task)) for task in job.manifest.pipelines}


def _drawn(job: Job, task: str, pipe: Any) -> Reference:
    """What PyTorch's pipeline draws: in the first of a few ways to call it that it takes."""
    pipe.set_progress_bar_config(disable=True)
    methods = _methods(job.manifest, pipe)
    failures: list[Exception] = []
    for keywords in _keywords(job, task, pipe):
        calls = Calls()
        try:
            with calls.recording(methods):
                outputs = _arrays(_call(pipe, pipe, keywords))
        except Exception as error:  # hundreds of pipelines refuse what they do not take in as many ways
            failures.append(error)
            continue
        reasons = (
            f"PyTorch's own {name} {why}" for name, array in outputs.items() if (why := undefined(array))
        )
        reason = next(reasons, "" if outputs else "the pipeline returns no picture")
        return Reference(keywords=keywords, outputs=outputs, calls=calls, reason=reason)
    return Reference(reason=f"PyTorch's own pipeline cannot be called: {_line(failures[0])}")


def _methods(manifest: Manifest, pipe: Any) -> dict[str, tuple[Any, str]]:
    """ "unet.forward" -> the module that has the method, and the method's name there."""
    methods: dict[str, tuple[Any, str]] = {}
    for component in manifest.components:
        module = getattr(pipe, component.name, None)
        if module is not None:
            for record in component.methods:
                path, _, leaf = record.method.rpartition(".")
                methods[f"{component.name}.{record.method}"] = (module.get_submodule(path), leaf)
    return methods


def _keywords(job: Job, task: str, pipe: Any) -> Iterator[dict[str, Any]]:
    """Ways to call the pipeline, the wanted one first: two steps at the smallest size, and arrays of the picture."""
    sizes = job.manifest.sizes
    batch = max(1, sizes["batch"].min)
    frames = sizes["frames"].min if "frames" in sizes else 0
    point = Point(batch, sizes["height"].min, sizes["width"].min, each=batch, frames=frames)
    overrides = parse_given(job.manifest.arguments)
    for form, extra in itertools.product(point.forms, retries(pipe)):
        for output_type, steps in (("np", DRAWN_STEPS), (None, DRAWN_STEPS), (None, STEPS)):
            keywords = dict(arguments(pipe, task, replace(point, form=form), extra, overrides))
            for name in ("num_inference_steps", "prior_num_inference_steps"):
                if name in keywords and name not in overrides:
                    keywords[name] = _steps(pipe, steps)
            if (
                output_type is not None
                and "output_type" in _parameters(pipe)
                and "output_type" not in overrides
            ):
                keywords["output_type"] = output_type
            keywords.pop("generator", None)
            yield keywords


def _steps(pipe: Any, steps: int) -> int:
    """How many steps to ask for, so that `steps` are made: a pipeline that starts from a picture leaves some out."""
    strength = getattr(_parameters(pipe).get("strength"), "default", None)
    return round(steps / strength) if isinstance(strength, float) and 0 < strength < 1 else steps


def _parameters(pipe: Any) -> Mapping[str, Any]:
    from runtimes.options import parameters

    return parameters(pipe)


def _call(pipe: Any, call: Any, keywords: Mapping[str, Any]) -> Any:
    """What `call` returns, with generators from the seeds 0, 1, ... where `pipe` takes generators."""
    import torch

    from runtimes.options import synonym

    torch.manual_seed(0)  # for noise that does not come from the generator
    name = synonym("seed", _parameters(pipe))
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(_count(keywords))]
    generator_argument = {} if name is None else {name: generators if len(generators) > 1 else generators[0]}
    return call(**keywords, **generator_argument)


def _count(keywords: Mapping[str, Any]) -> int:
    """How many pictures a call makes, as `generate` counts them."""
    from runtimes.options import SYNONYMS

    prompts = keywords.get("prompt")
    images = next((int(keywords[name]) for name in SYNONYMS["images"] if keywords.get(name)), 1)
    return images * (len(prompts) if isinstance(prompts, (list, tuple)) else 1)


# --- the artifact's side ----------------------------------------------------------------------------------------------


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


def _graphs(job: Job) -> tuple[Any, str, str]:
    """The artifact's graphs, in fp32 where its device computes in that; the type of most, and the device."""
    from runtimes.graphs import Graphs
    from runtimes.sessions import table

    device = device_of(table.get(job.manifest.target), AUTO)
    graphs = job.manifest.graphs
    wide = device is not None and all(WIDE in natively(device, graph.precision) for graph in graphs)
    asked = WIDE if wide else AUTO
    computes = {graph.precision if device is None else choose(asked, device, graph) for graph in graphs}
    name = "cpu" if device is None else device.name
    return (
        Graphs(Path(job.root), job.manifest, AUTO, None, silent, asked),
        WIDE if wide else min(computes - {WIDE}, default=WIDE),
        name,
    )


def _compared(
    job: Job, task: str, reference: Reference, graphs: Any, compute: str, device: str
) -> PipelineEvidence:
    from runtimes.pipeline import Pipeline

    files = _Layered(Folder(Path(job.loose)), Folder(Path(job.root)))
    pipeline = Pipeline(Path(job.root), job.manifest, task, graphs, files=files)
    pipeline.set_progress_bar_config(disable=True)
    sizes = job.manifest.sizes
    tolerance = picture_limit(job.manifest.graphs, compute, job.scheme_tolerances)
    error = _held(
        f"the artifact's {task} picture",
        _outputs(task, lambda: _call(pipeline.diffusers, pipeline, reference.keywords)),
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
    from runtimes.options import SYNONYMS

    return next((int(keywords[name]) for name in SYNONYMS["steps"] if name in keywords), 0)


def _loop(job: Job, task: str, reference: Reference, pipeline: Any, compute: str) -> tuple[float | None, str]:
    """The largest error of what `generate` gives to components and of its picture, components giving back PyTorch's.

    Returns:
        The error, and why there is none: this pipeline cannot be called by `generate` alone.
    """
    methods = _methods(job.manifest, pipeline.diffusers)
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
        return None, f"`generate` does not draw it: {_line(error)}"
    outputs = _arrays({**result.outputs, **({"images": result.images} if result.images else {})})
    picture = _held(f"`generate`'s {task} picture", outputs, reference.outputs, LOOP)
    return max(picture, worst.inputs), ""


def _options(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """`generate`'s keywords for a pipeline's own."""
    from runtimes.options import SYNONYMS

    ours = {name: option for option, names in SYNONYMS.items() for name in names}
    options: dict[str, Any] = {"seed": 0}
    for name, value in keywords.items():
        option = ours.get(name, name)
        singleton = isinstance(value, (list, tuple)) and len(value) == 1
        if option in ours.values() and name not in ("width", "height") and option not in options:
            options[option] = value[0] if singleton else value
        elif name not in ("width", "height"):
            options[name] = value
    if "width" in keywords and "height" in keywords:
        options["size"] = (keywords["width"], keywords["height"])
    return options


# --- both -------------------------------------------------------------------------------------------------------------


def _outputs(task: str, draw: Any) -> dict[str, np.ndarray]:
    import torch

    try:
        with torch.no_grad():
            return _arrays(draw())
    except LatentcError as error:
        raise LatentcError(
            f"the artifact does not draw {task} as it was compiled: {error.message}",
            error.hint or "Please report the model.",
        ) from error


def _arrays(value: Any, path: str = "picture") -> dict[str, np.ndarray]:
    """Every array, tensor and PIL image in a pipeline's output, by its place there."""
    return dict(_found(value, path))


def _found(value: Any, path: str) -> Iterable[tuple[str, np.ndarray]]:
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    elif hasattr(value, "getbands"):
        value = np.asarray(value, np.float32) / 255
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        yield path, value.astype(np.float32, copy=False)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _found(item, str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _found(item, f"{path}[{number}]")


def _held(
    what: str, outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float
) -> float:
    """The largest error of any output.

    Raises:
        LatentcError: it is over `tolerance`, or other outputs came than were expected.
    """
    worst = 0.0
    for name, array in expected.items():
        error = relative_error(outputs[name], array) if name in outputs else float("nan")
        if not error <= tolerance:
            figure = f"relative error {error:.2g}" if error == error else "another shape, or not finite"
            raise LatentcError(
                f"{what} is not PyTorch's: {figure}; at most {tolerance:g} is allowed.",
                "Compile it in --precision fp32; if it fails there too, please report the model.",
            )
        worst = max(worst, error)
    return worst


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
