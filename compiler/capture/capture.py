"""The capture of a model: its pipelines are run without weights, and what they call becomes a list of graphs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange
from artifacts.progress import Event, Progress, silent
from compiler.capture import modules as building
from compiler.capture.arguments import RETRIES, STEPS_OF, Point, arguments
from compiler.capture.infer import Method, methods
from compiler.capture.recorder import Recorder
from compiler.capture.split import NotOneGraph, Submodule
from compiler.capture.tasks import own_task, pipeline_for
from compiler.source import ModelSource
from runtimes.assemble import assemble, required_components
from runtimes.classes import class_path
from runtimes.limits import sized_within
from runtimes.parts import pads_to_no_length
from targets.graph.weights import Stored

# Sizes tried where neither the request nor the pipeline's own defaults tell one.
_FALLBACK_SIZE = 512


@dataclass(frozen=True)
class SizeRange:
    """Declared ranges of a picture's width and height, in pixels."""

    width: DimRange
    height: DimRange


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
        size, batch: the declared ranges (`size` is measured where the request names none).
        notes: what a user should know: components left out, sizes that are fixed.
    """

    pipelines: dict[str, str]
    methods: tuple[Method, ...]
    classes: dict[str, str]
    weights: dict[str, dict[str, Stored]]
    residuals: dict[str, tuple[str, ...]]
    size: SizeRange
    batch: DimRange
    notes: tuple[str, ...]
    uncalled: tuple[str, ...] = ()


def capture(
    source: ModelSource,
    tasks: Sequence[str] = (),
    size: SizeRange | None = None,
    batch: DimRange | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    weightless: bool = False,
    split: Mapping[Submodule, NotOneGraph] = MappingProxyType({}),
) -> Capture:
    """Runs the model's pipelines at a few batch and image sizes, without weights.

    Args:
        tasks: what the artifact should do; empty for what the model's own pipeline does.
        size: declared ranges; None for the pipeline's own default size.
        batch: declared range of images a call.
        given: more arguments of the call, by name.
        weightless: do not look for weight files: the folder may hold configs alone. What would be read of them
            is noise (`targets.graph.weights.Seeded`).
        split: modules that are known not to be one graph, and why. Others are found on the way.

    Raises:
        LatentcError: a component cannot be built, bound to its weights or run.
        UsageError: no pipeline does a task, or a call needs arguments that nobody gave.
    """
    reasons = dict(split)
    while True:
        try:
            return _captured(
                source,
                tasks,
                size,
                batch or DimRange(min=1, max=1),
                given or {},
                progress,
                weightless,
                reasons,
            )
        except NotOneGraph as error:
            reasons[error.part] = error
        except LatentcError as error:
            if not reasons:
                raise
            first = next(iter(reasons.values()))
            raise LatentcError(
                f"{first.message.removesuffix('.')}. In parts: {error.message}", error.hint
            ) from error


def _captured(
    source: ModelSource,
    tasks: Sequence[str],
    size: SizeRange | None,
    batch: DimRange,
    given: Mapping[str, Any],
    progress: Progress,
    weightless: bool,
    split: Mapping[Submodule, NotOneGraph],
) -> Capture:
    """`capture`, which raises `NotOneGraph` where one more module must be split."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    notes: list[str] = []
    built, weights = _modules(source, mode, progress, notes, weightless)
    recorder = Recorder(built, mode, lambda c, name: building.real_tensor(built[c], weights[c], name), split)
    pipe = assemble(source.root, class_path(source.pipeline_class()), built)
    run = _Runner(recorder, given, progress)
    with _quiet():
        pipelines = {task: pipeline_for(pipe, task) for task in tasks or (own_task(type(pipe)),)}
        size = size or _default_size(run, pipe, source)
        points = _points(size, batch)
        try:
            run.all(pipelines, points)
        except _CannotRun:
            if batch.max > 1:
                raise
            # It may take one prompt or one picture a call, which is all that is asked for.
            recorder.calls.clear()
            points = _points(size, batch, most=1)
            run.all(pipelines, points)
    found = methods(recorder.calls, points)
    notes.extend(
        f"{m.folder}: one image size only, because the pipeline passes {', '.join(m.fixed)} as plain numbers."
        for m in found
        if m.fixed
    )
    notes.extend(
        f"{name}: {sum(m.component == name for m in found)} graphs with {type(built[name]).__name__}'s own Python "
        f"between them. {next(e.message for part, e in split.items() if part.component == name).removesuffix('.')}."
        for name in dict.fromkeys(part.component for part in split)
    )
    unused = sorted(set(built) - {m.component for m in found})
    needed = required_components(type(pipeline) for pipeline in pipelines.values())
    notes.extend(
        f"{name}: {'without weights' if name in needed else 'left out'}, because no call of the pipeline reaches it."
        for name in unused
    )
    return Capture(
        pipelines={task: class_path(type(p)) for task, p in pipelines.items()},
        methods=found,
        classes={name: class_path(type(module)) for name, module in built.items()},
        weights={m.component: weights[m.component] for m in found},
        uncalled=tuple(name for name in unused if name in needed),
        residuals={name: tuple(sorted(names)) for name, names in recorder.residuals.items()},
        size=size,
        batch=batch,
        notes=tuple(notes),
    )


def _default_size(run: _Runner, pipe: Any, source: ModelSource) -> SizeRange:
    """`_Runner.default_size`, of a model whose own size may be enormous."""
    configs = {
        str(c.folder / "config.json"): c.config
        for c in source.modules
        if (c.folder / "config.json").is_file()
    }
    what = f"{type(pipe).__name__} makes pictures of a size that is too large, where it is told none"
    with sized_within(what, _LARGEST_SIZED, configs, "Correct that file, or give the size: --size WxH"):
        return run.default_size(pipe)


def _modules(
    source: ModelSource, mode: FakeTensorMode, progress: Progress, notes: list[str], weightless: bool
) -> tuple[dict[str, torch.nn.Module], dict[str, dict[str, Stored]]]:
    optional = getattr(source.pipeline_class(), "_optional_components", [])
    built: dict[str, torch.nn.Module] = {}
    weights: dict[str, dict[str, Stored]] = {}
    wanted = source.modules
    for number, component in enumerate(wanted):
        progress(Event(f"{component.name}: building without weights", number, len(wanted)))
        if component.name in optional and component.library not in ("diffusers", "transformers"):
            # A pipeline's own module that it can do without (a safety checker) works on finished pictures, in
            # Python that decides by their content: no graph says that.
            notes.append(
                f"{component.name}: left out; {component.class_name} is optional and runs on pictures."
            )
            continue
        built[component.name] = building.build(component, mode)
        module = built[component.name]
        weights[component.name] = building.seeded(module) if weightless else building.bind(module, component)
    return built, weights


_LARGEST_SIZED = 1 << 30
"""Bytes of the noise of one picture or video of a size that nobody asked for."""


class _Runner:
    def __init__(self, recorder: Recorder, given: Mapping[str, Any], progress: Progress) -> None:
        self.recorder, self.given, self.progress = recorder, given, progress

    def default_size(self, pipe: Any) -> SizeRange:
        """The size of the pictures that the pipeline makes when it is not told one."""
        point = Point(1, _FALLBACK_SIZE, _FALLBACK_SIZE)
        before = len(self.recorder.calls)
        image = self._first(self._call(pipe, own_task(type(pipe)), point, 0, without=("height", "width")))
        del self.recorder.calls[before:]
        height, width = image or (_FALLBACK_SIZE, _FALLBACK_SIZE)
        return SizeRange(DimRange(min=width, max=width), DimRange(min=height, max=height))

    @staticmethod
    def _first(result: Any) -> tuple[int, int] | None:
        images = getattr(result, "images", None)
        first = images[0] if images is not None and len(images) else None
        return (first.height, first.width) if first is not None and hasattr(first, "height") else None

    def all(self, pipelines: Mapping[str, Any], points: Sequence[Point]) -> None:
        """Runs the pipeline of each task at all points.

        Raises:
            _CannotRun: a call fails in every form.
        """
        for task, pipe in pipelines.items():
            for number, point in enumerate(points):
                self.progress(Event(f"{task}: dry run", number, len(points)))
                self._call(pipe, task, point, number)
            self.progress(Event(f"{task}: dry run", len(points), len(points)))

    def _call(self, pipe: Any, task: str, point: Point, number: int, without: tuple[str, ...] = ()) -> Any:
        pipe.set_progress_bar_config(disable=True)
        failures: list[Exception] = []
        before = len(self.recorder.calls)
        for left, form, extra in itertools.product(((), STEPS_OF), point.forms, RETRIES):
            keywords = arguments(pipe, task, replace(point, form=form), extra, self.given)
            out = {*without, *left} - self.given.keys()
            keywords = {name: value for name, value in keywords.items() if name not in out}
            try:
                with self.recorder.recording(number), torch.no_grad():
                    return pipe(**keywords)
            except LatentcError:
                raise
            except Exception as error:
                failures.append(error)
                del self.recorder.calls[before:]
        first = failures[0]
        if isinstance(first, OverflowError) and (name := pads_to_no_length(pipe.components)):
            raise LatentcError(
                f"{type(pipe).__name__} pads prompts to the model_max_length of '{name}', which has none.",
                f"Write it into {name}/tokenizer_config.json: as many tokens as the text encoder has positions "
                '(e.g. "model_max_length": 77).',
            ) from first
        raise _CannotRun(
            f"{type(pipe).__name__} cannot be run at {point.width}x{point.height}, batch {point.batch}: "
            f"{type(first).__name__}: {first}",
            "Choose another --size, or give the arguments it needs: --arg NAME=VALUE",
        ) from first


class _CannotRun(LatentcError):
    """A pipeline's call fails, however its prompts and pictures are passed."""


def _points(size: SizeRange, batch: DimRange, most: int = 3) -> tuple[Point, ...]:
    """Where pipelines are run: an example off every end, both ends, and one more batch size.

    The example comes first; it is what is exported, and its batch is at least 2, because torch.export takes a
    size of 1 for a constant. `most` 1 is for pipelines that make one picture a call: their batch is a constant.
    """
    height, width = _inner(size.height, 1), _inner(size.width, 2)
    low, high = (size.height.min, size.width.min), (size.height.max, size.width.max)
    found = [
        Point(max(2, batch.min), height, width, words=4, extra=batch.max < 2),
        Point(max(3, batch.min + 1), low[0], high[1], words=9, extra=batch.max < max(3, batch.min + 1)),
        Point(batch.max, *high, words=14),
        Point(batch.min, *low, words=2, guided=False),
    ]
    if (batch.min, low) != (batch.max, high):
        found.append(Point(batch.min, *low, words=2))
    if batch.min > 1:  # Pictures of one prompt: it is encoded once.
        found.append(Point(batch.min, *low, words=2, each=batch.min))
    return tuple(replace(point, batch=min(point.batch, max(most, batch.max))) for point in found)


def _inner(span: DimRange, steps: int) -> int:
    """A size `steps` units above the range's start, in units that sizes usually are multiples of."""
    unit = next(u for u in (64, 32, 16, 8, 1) if span.min % u == 0 and span.max % u == 0)
    return min(span.min + steps * unit, span.max)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' and transformers' warnings, which speak of the zeros of a dry run."""
    import warnings

    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
