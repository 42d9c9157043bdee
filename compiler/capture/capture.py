"""The capture of a model: its pipelines are run without weights, and what they call becomes a list of graphs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange, LeftOut
from artifacts.progress import Event, Progress, silent
from compiler.capture import adapters
from compiler.capture import modules as building
from compiler.capture.arguments import STEPS_OF, Point, arguments, retries
from compiler.capture.calls_before import call_before
from compiler.capture.embedded import embedded
from compiler.capture.infer import Method, methods
from compiler.capture.made_visuals import FRAMES, missing
from compiler.capture.recorder import Recorder
from compiler.capture.split import NotOneGraph, Submodule
from compiler.capture.tasks import own_task, pipeline_for
from compiler.source import ModelSource
from runtimes.assemble import assemble, required_components
from runtimes.classes import class_path
from runtimes.limits import sized_within
from runtimes.options import parameters, synonym
from runtimes.parts import pads_to_no_length
from runtimes.quiet import quiet
from runtimes.visuals import has_frames
from targets.graph.weights import Origin

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
        size, batch, frames: the declared ranges (`size` and `frames` are measured where the request names none);
            `frames` is None for pipelines without any.
        size, batch: the declared ranges (`size` is measured where the request names none).
        tokens: that of the text's length, with the pipeline's own; None where it has its own alone.
        notes: what a user should know: components left out, sizes that are fixed.
        left_out: the model's modules that no graph stands for, and why.
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

    Raises:
        LatentcError: a component cannot be built, bound to its weights or run.
        UsageError: no pipeline does a task, a call needs arguments that nobody gave, or frames are asked for of a
            pipeline of pictures.
    """
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
            )
        except NotOneGraph as error:
            reasons[error.part] = error
        except LatentcError as error:
            own = error.hint and not isinstance(error, _CannotRun)
            if not reasons and source.spec.components and not own:
                raise LatentcError(error.message, _of_components(source)) from error
            if not reasons:
                raise
            first = next(iter(reasons.values()))
            raise LatentcError(
                f"{first.message.removesuffix('.')}. In parts: {error.message}", error.hint
            ) from error


def _of_components(source: ModelSource) -> str:
    """What to do where the pipeline does not run with the components that it was given."""
    places = ", ".join(f"{name}={place}" for name, place in source.spec.components.items())
    return f"See whether they fit the model, one at a time: --component {places}"


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
) -> Capture:
    """`capture`, which raises `NotOneGraph` where one more module must be split."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    left_out: list[LeftOut] = []
    built, weights = _modules(source, mode, progress, left_out, weightless)
    recorder = Recorder(built, mode, lambda c, name: building.real_tensor(built[c], weights[c], name), split)
    pipe = assemble(source.files, class_path(source.pipeline_class()), built)
    run = _Runner(recorder, overrides, progress)
    with quiet("diffusers", "transformers"):  # Their warnings speak of the zeros of a dry run.
        pipelines = {task: pipeline_for(pipe, task) for task in tasks or (own_task(type(pipe)),)}
        size, frames = _complete(run, pipe, source, size, frames)
        points = _points(size, batch, frames, tokens)
        try:
            run.all(pipelines, points)
        except _CannotRun:
            if batch.max > 1:
                raise
            # It may take one prompt or one picture a call, which is all that is asked for.
            recorder.calls.clear()
            points = _points(size, batch, frames, tokens, most=1)
            run.all(pipelines, points)
        points = tuple(replace(p, tokens=run.tokens) if p.tokens is None else p for p in points)
    graphs = methods(recorder.calls, points)
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
    )


def _complete(
    run: _Runner, pipe: Any, source: ModelSource, size: SizeRange | None, frames: DimRange | None
) -> tuple[SizeRange, DimRange | None]:
    """`_Runner.complete`, of a model whose own size may be enormous."""
    if size is not None:
        return run.complete(pipe, size, frames)
    configs = {
        str(c.folder / "config.json"): c.config
        for c in source.modules
        if (c.folder / "config.json").is_file()
    }
    what = f"{type(pipe).__name__} makes pictures of a size that is too large, where it is told none"
    with sized_within(what, _LARGEST_SIZED, configs, "Correct that file, or give the size: --size WxH"):
        return run.complete(pipe, size, frames)


def _modules(
    source: ModelSource, mode: FakeTensorMode, progress: Progress, left_out: list[LeftOut], weightless: bool
) -> tuple[dict[str, torch.nn.Module], dict[str, dict[str, Origin]]]:
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
    return built, adapters.merged(source, weights, progress)


@dataclass(frozen=True)
class _Made:
    """Height and width of the first picture that a call made, and the frames of its first video; None where unknown."""

    size: tuple[int, int] | None = None
    frames: int | None = None

    @classmethod
    def of(cls, result: Any) -> _Made:
        clips = getattr(result, "frames", None)
        pictures = getattr(result, "images", None) if clips is None else clips[0] if len(clips) else None
        if pictures is None or not len(pictures):
            return cls()
        first = pictures[0]
        shape = getattr(first, "shape", ())  # [height, width, 3] of an array, [3, height, width] of a tensor
        if hasattr(first, "height"):
            size: tuple[int, int] | None = (first.height, first.width)
        elif len(shape) == 3:
            size = tuple(shape[1:]) if isinstance(first, torch.Tensor) else tuple(shape[:2])
        else:
            size = None
        return cls(size, None if clips is None else len(pictures))


_LARGEST_SIZED = 1 << 30
"""Bytes of the noise of one picture or video of a size that nobody asked for."""


class _Runner:
    def __init__(self, recorder: Recorder, overrides: Mapping[str, Any], progress: Progress) -> None:
        self.recorder, self.overrides, self.progress = recorder, overrides, progress
        self.tokens: int | None = None
        """The length that the pipeline's own text has, where that was asked for."""

    def complete(
        self, pipe: Any, size: SizeRange | None, frames: DimRange | None
    ) -> tuple[SizeRange, DimRange | None]:
        """The declared ranges, with what the pipeline makes when it is not told in the place of what is None.

        Raises:
            UsageError: frames are asked for of a pipeline that has none.
        """
        known = parameters(pipe)
        counter, moves = synonym("frames", known), has_frames(known)
        if frames is not None and not moves:
            raise UsageError(
                f"{type(pipe).__name__} makes no videos: it has no number of frames.", "Leave --frames out."
            )
        if moves and frames is None and counter is None:
            frames = DimRange(min=FRAMES, max=FRAMES)
        usual = known[counter].default if counter is not None else None
        if moves and frames is None and isinstance(usual, int):
            frames = DimRange(min=usual, max=usual)
        if size is None or (moves and frames is None):
            first = self._without_size(pipe, size, frames)
            height, width = first.size or (_FALLBACK_SIZE, _FALLBACK_SIZE)
            size = size or SizeRange(DimRange(min=width, max=width), DimRange(min=height, max=height))
            if moves and frames is None:
                count = first.frames or FRAMES
                frames = DimRange(min=count, max=count)
        return size, frames

    def _without_size(self, pipe: Any, size: SizeRange | None, frames: DimRange | None) -> _Made:
        """What the pipeline makes when it is told neither size nor frames, apart from those that are declared."""
        height, width = (_FALLBACK_SIZE,) * 2 if size is None else (size.height.min, size.width.min)
        point = Point(1, height, width, frames=0 if frames is None else frames.min)
        before = len(self.recorder.calls)
        left_out = ("height", "width") if size is None else ()
        result = self._call(pipe, own_task(type(pipe)), point, 0, without=left_out)
        del self.recorder.calls[before:]
        return _Made.of(result)

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
        recorded = len(self.recorder.calls)
        for left, form, extra in itertools.product(((), STEPS_OF), point.forms, retries(pipe)):
            keywords = arguments(pipe, task, replace(point, form=form), extra, self.overrides)
            out = {*without, *left} - self.overrides.keys()
            keywords = {name: value for name, value in keywords.items() if name not in out}
            try:
                with self.recorder.recording(number), torch.no_grad():
                    if point.tokens is not None:
                        keywords, self.tokens = embedded(pipe, keywords, point.tokens)
                        del self.recorder.calls[recorded:]
                    return pipe(**keywords)
            except LatentcError:
                raise
            except Exception as error:
                failures.append(error)
                del self.recorder.calls[recorded:]
        first = failures[0]
        if isinstance(first, OverflowError) and (name := pads_to_no_length(pipe.components)):
            raise LatentcError(
                f"{type(pipe).__name__} pads prompts to the model_max_length of '{name}', which has none.",
                f"Write it into {name}/tokenizer_config.json: as many tokens as the text encoder has positions "
                '(e.g. "model_max_length": 77).',
            ) from first
        for failure in failures:
            if before := call_before(type(pipe), pipe.components, failure):
                raise LatentcError(
                    f"{type(pipe).__name__} wants its '{before}' called before it is called itself "
                    f"({type(failure).__name__}: {failure}), and an artifact begins with the call.",
                    "Run it in PyTorch; latentc compiles pipelines that one call draws with.",
                ) from failure
        if isinstance(first, OverflowError) and (name := pads_to_no_length(pipe.components)):
            raise LatentcError(
                f"{type(pipe).__name__} pads prompts to the model_max_length of '{name}', which has none.",
                f"Write it into {name}/tokenizer_config.json: as many tokens as the text encoder has positions "
                '(e.g. "model_max_length": 77).',
            ) from first
        absent = list(missing(parameters(pipe), self.overrides))
        raise _CannotRun(
            f"{type(pipe).__name__} cannot be run at {point.width}x{point.height}, batch {point.batch}: "
            f"{type(first).__name__}: {first}",
            "Choose another --size, or give the arguments it needs: "
            + (", ".join(absent[:3]) if absent else "--arg NAME=VALUE"),
        ) from first


class _CannotRun(LatentcError):
    """A pipeline's call fails, however its prompts and pictures are passed."""


def _with(tokens: DimRange | None, own: int | None) -> DimRange | None:
    if tokens is None or own is None:
        return tokens
    return DimRange(min=min(tokens.min, own), max=max(tokens.max, own))


def _points(
    size: SizeRange,
    batch: DimRange,
    frames: DimRange | None = None,
    tokens: DimRange | None = None,
    most: int = 3,
) -> tuple[Point, ...]:
    """Where pipelines are run: an example off every end, both ends, and one more batch size.

    The example comes first; it is what is exported, and its batch is at least 2, because torch.export takes a
    size of 1 for a constant. So does its video have most frames: a short one may be of one latent. `most` 1 is for
    pipelines that make one picture a call: their batch is a constant.
    """
    height, width = _inner(size.height, 1), _inner(size.width, 2)
    low, high = (size.height.min, size.width.min), (size.height.max, size.width.max)
    short, middle, long = (0, 0, 0) if frames is None else (frames.min, _between(frames), frames.max)
    points = [
        Point(max(2, batch.min), height, width, words=4, extra=batch.max < 2, frames=long),
        Point(
            max(3, batch.min + 1),
            low[0],
            high[1],
            words=9,
            extra=batch.max < max(3, batch.min + 1),
            frames=middle,
        ),
        Point(batch.max, *high, words=14, frames=long),
        Point(batch.min, *low, words=2, guided=False, frames=short),
    ]
    if (batch.min, low, short) != (batch.max, high, long):
        points.append(Point(batch.min, *low, words=2, frames=short))
    if batch.min > 1:  # Pictures of one prompt: it is encoded once.
        points.append(Point(batch.min, *low, words=2, each=batch.min, frames=short))
    if tokens is not None:
        points.append(Point(batch.max, *high, words=14, tokens=tokens.max, frames=long))
        points.append(Point(max(2, batch.min), height, width, tokens=tokens.max + 1, extra=True, frames=long))
        points.append(Point(batch.min, *low, words=2, guided=False, tokens=tokens.min, frames=short))
    return tuple(replace(point, batch=min(point.batch, max(most, batch.max))) for point in points)


def _between(frames: DimRange) -> int:
    """A number inside the range that an autoencoder makes, if it makes both ends: they count in steps of 8, 4 or 2."""
    span = frames.max - frames.min
    unit = next(u for u in (8, 4, 2, 1) if span % u == 0)
    return min(frames.min + unit * max(1, span // unit // 2), frames.max)


def _inner(span: DimRange, steps: int) -> int:
    """A size `steps` units above the range's start, in units that sizes usually are multiples of."""
    unit = next(u for u in (64, 32, 16, 8, 1) if span.min % u == 0 and span.max % u == 0)
    return min(span.min + steps * unit, span.max)
