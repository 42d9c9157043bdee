"""The capture of a model: its pipelines are run without weights, and what they call becomes a list of graphs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.command_words import quoted
from artifacts.errors import LatentcError
from artifacts.manifest import Adapter, DimRange, LeftOut
from artifacts.progress import Event, Progress, silent
from compiler.capture import adapters, declared_sizes
from compiler.capture import weightless_modules as building
from compiler.capture.declared_sizes import SizeRange, points_inside
from compiler.capture.dry_run import CannotRun, DryRun, RefusedRequest, complete_sizes
from compiler.capture.infer import Method, methods
from compiler.capture.recorder import NotRunnable, Recorder
from compiler.capture.split import NotOneGraph, Submodule
from compiler.capture.tasks import own_task, pipeline_for
from compiler.model_source import ModelSource
from runtimes.assemble import assemble, required_components
from runtimes.quiet import quiet
from runtimes.trusted_classes import class_path
from targets.graph.weights import Origin


@dataclass(frozen=True)
class Capture:
    """What a model's pipelines call.

    Attributes:
        pipelines: task -> class path of the pipeline that does it.
        methods: the graphs to export.
        classes: component -> class path of its module.
        weights: component -> where each parameter and persistent buffer is stored.
        uncalled: components that no call reaches, and that the pipelines' constructors require.
        residuals: component -> names of tensors that pipelines read outside captured methods.
        size, batch, frames: the declared ranges (`size` and `frames` are measured where the request names none);
            `frames` is None for pipelines without any.
        tokens: that of the text's length, with the pipeline's own; None where it has its own alone.
        notes: what a user should know: components left out, sizes that are fixed.
        left_out: the model's modules that no graph stands for, and why.
        adapters: what was merged into the weights, with how much of each was left out.
    """

    pipelines: dict[str, str]
    methods: tuple[Method, ...]
    classes: dict[str, str]
    weights: dict[str, dict[str, Origin]]
    residuals: dict[str, tuple[str, ...]]
    size: SizeRange
    batch: DimRange
    notes: tuple[str, ...]
    uncalled: tuple[str, ...] = ()
    frames: DimRange | None = None
    left_out: tuple[LeftOut, ...] = ()
    tokens: DimRange | None = None
    adapters: tuple[Adapter, ...] = ()

    @property
    def one_length(self) -> bool:
        """Whether one batch is declared, and one number of frames if any."""
        return all(span is None or span.min == span.max for span in (self.batch, self.frames))


def capture(
    source: ModelSource,
    tasks: Sequence[str] = (),
    size: SizeRange | None = None,
    batch: DimRange | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    weightless: bool = False,
    split: Mapping[Submodule, NotOneGraph] = MappingProxyType({}),
    frames: DimRange | None = None,
    tokens: DimRange | None = None,
    fixed_rows: Collection[tuple[str, str]] = (),
) -> Capture:
    """Runs the model's pipelines at a few batch and image sizes, without weights.

    Args:
        tasks: what the artifact should do; empty for what the model's own pipeline does.
        size: declared ranges; None for the pipeline's own default size.
        batch: declared range of images a call.
        overrides: more arguments of the call, by name.
        weightless: do not look for weight files: the folder may hold configs alone. What would be read of them
            is noise (`targets.graph.weights.Seeded`).
        split: modules that are known not to be one graph, and why. Others are found on the way.
        frames: declared range of a video's frames; None for as many as the pipeline makes when it is not told.
        tokens: declared range of the text's length, which then holds the pipeline's own, too.
        fixed_rows: components' methods that hold for one number of rows: each that is called with has a graph.

    Raises:
        LatentcError: a component cannot be built, bound to its weights or run.
        UsageError: sizes are more than can be, no pipeline does a task, or it refuses what is asked for, a call needs
            arguments that nobody gave, or frames are asked for of a pipeline of pictures.
    """
    declared_sizes.check(size, batch, frames, tokens)
    reasons = dict(split)
    while True:
        try:
            return _captured(
                source,
                tasks,
                size,
                batch or DimRange(min=1, max=1),
                overrides or {},
                progress,
                weightless,
                reasons,
                frames,
                tokens,
                fixed_rows,
            )
        except NotOneGraph as error:
            reasons[error.part] = error
        except RefusedRequest as error:
            error.tell_of_range(size)
            raise
        except LatentcError as error:
            own = error.hint and not isinstance(error, (CannotRun, NotRunnable))
            if not reasons and source.spec.components and not own:
                raise LatentcError(*_of_components(source, error)) from error
            if not reasons:
                raise
            first = next(iter(reasons.values()))
            raise LatentcError(
                f"{first.message.removesuffix('.')}. In parts: {error.message}", error.hint
            ) from error


def _of_components(source: ModelSource, error: LatentcError) -> tuple[str, str]:
    """What is wrong, and what to do, where the pipeline does not run with the components that it was given."""
    components = source.spec.components
    places = ", ".join(
        quoted(f"{name}={place}")
        for name, value in components.items()
        for place in ((value,) if isinstance(value, str) else value)
    )
    left_out = [name for name, value in components.items() if value == "none"]
    if len(left_out) == len(components):
        names = " and ".join(f"'{name}'" for name in left_out)
        return (
            f"{source.pipeline} cannot do without {names}: {error.message}",
            "Compile it with all that it needs: leave out --component NAME=none",
        )
    return error.message, f"See whether they fit the model, one at a time: --component {places}"


def _captured(
    source: ModelSource,
    tasks: Sequence[str],
    size: SizeRange | None,
    batch: DimRange,
    overrides: Mapping[str, Any],
    progress: Progress,
    weightless: bool,
    split: Mapping[Submodule, NotOneGraph],
    frames: DimRange | None,
    tokens: DimRange | None,
    fixed_rows: Collection[tuple[str, str]],
) -> Capture:
    """`capture`, which raises `NotOneGraph` where one more module must be split."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    left_out = list(source.left_out)
    built, adapted = _modules(source, mode, progress, left_out, weightless)
    weights = adapted.weights
    recorder = Recorder(built, mode, lambda c, name: building.real_tensor(built[c], weights[c], name), split)
    pipe = assemble(source.files, class_path(source.pipeline_class()), built)
    run = DryRun(recorder, overrides, progress)
    # Their warnings speak of the zeros of a dry run, and torch's errors of what is tried in another way next.
    with quiet("diffusers", "transformers"), quiet("torch._subclasses.fake_tensor", level=logging.CRITICAL):
        pipelines = {task: pipeline_for(pipe, task) for task in tasks or (own_task(type(pipe)),)}
        size, frames = complete_sizes(run, pipe, source, size, frames)
        # Rows are held for the declared batch: nothing is to be seen at others.
        points = points_inside(size, batch, frames, tokens, most=1 if fixed_rows else 3)
        try:
            run.all(pipelines, points)
        except (CannotRun, NotRunnable):
            if batch.max > 1:
                raise
            # It may take one prompt or one picture a call, which is all that is asked for.
            recorder.calls.clear()
            points = points_inside(size, batch, frames, tokens, most=1)
            run.all(pipelines, points)
        points += run.binned(pipelines, points)
        points = tuple(replace(p, tokens=run.tokens) if p.tokens is None else p for p in points)
    graphs = methods(recorder.calls, points, fixed_rows)
    unused = sorted(set(built) - {m.component for m in graphs})
    needed = required_components(type(pipeline) for pipeline in pipelines.values())
    left_out += [
        LeftOut(
            name=name,
            class_name=type(built[name]).__name__,
            reason="no call of the pipeline reaches it"
            + (", only its class is there" if name in needed else ""),
        )
        for name in unused
    ]
    notes = [
        f"{m.folder}: one image size only, because the pipeline passes {', '.join(m.fixed)} as plain numbers."
        for m in graphs
        if m.fixed
    ]
    notes += [
        f"{name}: {sum(m.component == name for m in graphs)} graphs with {type(built[name]).__name__}'s own Python "
        f"between them. {next(e.message for part, e in split.items() if part.component == name).removesuffix('.')}."
        for name in dict.fromkeys(part.component for part in split)
    ]
    notes += [
        f"{name}: {sum((m.component, m.method) == (name, method) for m in graphs)} graphs of '{method}', one for each "
        "number of rows, which its code counts."
        for name, method in sorted(fixed_rows)
    ]
    notes += run.notes
    notes += [f"{part.name} ({part.class_name}): left out, because {part.reason}." for part in left_out]
    return Capture(
        pipelines={task: class_path(type(p)) for task, p in pipelines.items()},
        methods=graphs,
        classes={name: class_path(type(module)) for name, module in built.items()},
        weights={m.component: weights[m.component] for m in graphs},
        uncalled=tuple(name for name in unused if name in needed),
        residuals={name: tuple(sorted(names)) for name, names in recorder.residuals.items()},
        size=size,
        batch=batch,
        tokens=_with(tokens, run.tokens),
        notes=tuple(notes),
        frames=frames,
        left_out=tuple(left_out),
        adapters=adapted.adapters,
    )


def _modules(
    source: ModelSource, mode: FakeTensorMode, progress: Progress, left_out: list[LeftOut], weightless: bool
) -> tuple[dict[str, torch.nn.Module], adapters.Merged]:
    optional = getattr(source.pipeline_class(), "_optional_components", [])
    built: dict[str, torch.nn.Module] = {}
    weights: dict[str, dict[str, Origin]] = {}
    wanted = source.modules
    for number, component in enumerate(wanted):
        progress(Event(f"{component.name}: building without weights", number, len(wanted)))
        if component.name in optional and component.library not in ("diffusers", "transformers"):
            # A pipeline's own module that it can do without (a safety checker) works on finished pictures, in
            # Python that decides by their content: no graph says that.
            reason = "it is optional and runs on finished pictures"
            left_out.append(LeftOut(name=component.name, class_name=component.class_name, reason=reason))
            continue
        built[component.name] = building.build(component, mode)
        module = built[component.name]
        weights[component.name] = building.seeded(module) if weightless else building.bind(module, component)
    return built, adapters.merged(source, weights, progress, built)


def _with(tokens: DimRange | None, own: int | None) -> DimRange | None:
    if tokens is None or own is None:
        return tokens
    return DimRange(min=min(tokens.min, own), max=max(tokens.max, own))
