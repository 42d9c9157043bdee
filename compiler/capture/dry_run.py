"""The runs of a dry run: a pipeline is called at each point, in the first form of a few that it takes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from artifacts.error_text import class_and_text
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from artifacts.progress import Event, Progress, silent
from compiler.capture.arguments import BINNING, STEPS_OF, Form, Point, arguments, retries
from compiler.capture.calls_before import call_before
from compiler.capture.declared_sizes import SizeRange, corners
from compiler.capture.embedded import embedded
from compiler.capture.made_visuals import FRAMES, FromFile, missing
from compiler.capture.recorder import Call, NotRunnable, Recorder
from compiler.capture.tasks import own_task
from compiler.model_source import ModelSource
from runtimes.generate_options import parameters, synonym
from runtimes.media import is_visual
from runtimes.pipeline_parts import pads_to_no_length
from runtimes.refusals import multiple_of, nearest_sizes
from runtimes.resource_limits import sized_within
from runtimes.visuals import has_frames, visuals

_FALLBACK_SIZE = 512
"""Pixels of a side where neither the request, nor the pipeline's defaults, nor its models tell them."""

_FALLBACK = (_FALLBACK_SIZE, _FALLBACK_SIZE)

_FACTORS = (2, 4, 8, 16)
"""By which a pipeline may divide a size more often than its autoencoder multiplies it."""

_LARGEST_SIDE = 4096
"""Pixels; a model whose configuration says more is not believed."""

_LARGEST_SIZED = 1 << 30
"""Bytes of the noise of one picture or video of a size that nobody asked for."""


def complete_sizes(
    run: DryRun, pipe: Any, source: ModelSource, size: SizeRange | None, frames: DimRange | None
) -> tuple[SizeRange, DimRange | None]:
    """`DryRun.complete`, of a model whose own size may be enormous."""
    if size is not None:
        return run.complete(pipe, size, frames)
    configs = {
        str(c.folder / "config.json"): c.config
        for c in source.modules
        if (c.folder / "config.json").is_file()
    }
    subject = f"{type(pipe).__name__} makes pictures of a size that is too large, where it is told none"
    with sized_within(subject, _LARGEST_SIZED, configs, "Correct that file, or give the size: --size WxH"):
        return run.complete(pipe, size, frames)


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


class DryRun:
    """Runs pipelines while `recorder` records what they call."""

    def __init__(self, recorder: Recorder, overrides: Mapping[str, Any], progress: Progress) -> None:
        self.recorder, self.overrides, self.progress = recorder, overrides, progress
        self.tokens: int | None = None
        """The length that the pipeline's own text has, where that was asked for."""
        self.notes: list[str] = []
        """What a user should know of the runs."""

    def complete(
        self, pipe: Any, size: SizeRange | None, frames: DimRange | None
    ) -> tuple[SizeRange, DimRange | None]:
        """The declared ranges; in the place of None, the size or frames that the pipeline makes by itself.

        Raises:
            UsageError: frames are asked for of a pipeline that has none.
        """
        signature = parameters(pipe)
        counter, moves = synonym("frames", signature), has_frames(signature)
        if frames is None and moves and (count := self._frames_given(signature, counter)):
            frames = DimRange(min=count, max=count)
        if frames is not None and not moves:
            raise UsageError(
                f"{type(pipe).__name__} makes no videos: it has no number of frames.", "Leave --frames out."
            )
        if moves and frames is None and counter is None:
            frames = DimRange(min=FRAMES, max=FRAMES)
        usual = signature[counter].default if counter is not None else None
        if moves and frames is None and isinstance(usual, int):
            frames = DimRange(min=usual, max=usual)
        if size is None or (moves and frames is None):
            first = self._made_untold(pipe, size, frames)
            if size is None:
                size = _exactly(*(self._asked_for(pipe, first.size, frames) if first.size else _FALLBACK))
            if moves and frames is None:
                count = first.frames or FRAMES
                frames = DimRange(min=count, max=count)
        return size, frames

    def _frames_given(self, signature: Mapping[str, Any], counter: str | None) -> int | None:
        """How many frames the user's own arguments have: by their number, or by the length of a video."""
        count = self.overrides.get(counter or "")
        if isinstance(count, int):
            return count
        clips = (self.overrides.get(name) for name, which in visuals(signature).items() if which == "video")
        return next((len(clip.frames) for clip in clips if isinstance(clip, FromFile) and clip.moving), None)

    def _made_untold(self, pipe: Any, size: SizeRange | None, frames: DimRange | None) -> _Made:
        """`_without_size`, with pictures of the size that the pipeline's models were trained for, if it takes that."""
        side = _trained_side(pipe)
        if size is None and side is not None:
            try:
                return self._without_size(pipe, size, frames, side)
            except (CannotRun, NotRunnable):
                pass  # Models of a size that their own pipeline does not take.
        return self._without_size(pipe, size, frames, _FALLBACK_SIZE)

    def _asked_for(self, pipe: Any, drawn: tuple[int, int], frames: DimRange | None) -> tuple[int, int]:
        """The height and width that a pipeline is told for pictures of that size: their own, unless it divides by
        another factor than its autoencoder multiplies by, or makes pictures larger than those that it is given."""
        told = parameters(pipe).get("height")
        if told is not None and told.default == drawn[0]:
            return drawn

        def makes(size: tuple[int, int]) -> tuple[int, int] | None:
            try:
                return self._without_size(pipe, _exactly(*size), frames, drawn[0]).size
            except (CannotRun, NotRunnable):
                return None

        result_size = makes(drawn)
        if result_size == drawn:
            return drawn
        factors = _FACTORS if result_size is None else (drawn[0] / result_size[0],)
        sizes = ((round(drawn[0] * factor), round(drawn[1] * factor)) for factor in factors)
        return next((size for size in sizes if min(size) > 0 and makes(size) == drawn), drawn)

    def _without_size(self, pipe: Any, size: SizeRange | None, frames: DimRange | None, side: int) -> _Made:
        """What the pipeline makes when it is told neither size nor frames, apart from those that are declared.

        Args:
            side: pixels of the pictures that it is given, which many pipelines take the size from.
        """
        height, width = (side, side) if size is None else (size.height.min, size.width.min)
        point = Point(1, height, width, frames=0 if frames is None else frames.min)
        before = len(self.recorder.calls)
        left_out = ("height", "width") if size is None else ()
        result = self._call(pipe, own_task(type(pipe)), point, 0, without=left_out)
        del self.recorder.calls[before:]
        return _Made.of(result)

    def all(self, pipelines: Mapping[str, Any], points: Sequence[Point]) -> None:
        """Runs the pipeline of each task at all points.

        A pipeline that fails without guidance, and not with it, is captured with guidance alone.

        Raises:
            CannotRun: a call fails in every form; `RefusedRequest` where that is what was asked for.
        """
        self.notes.clear()
        for task, pipe in pipelines.items():
            for number, point in enumerate(points):
                self.progress(Event(f"{task}: dry run", number, len(points)))
                try:
                    self._call(pipe, task, point, number)
                except CannotRun as error:
                    if point.guided:
                        raise
                    failure = error.__cause__ or error
                    self.notes.append(
                        f"{task}: with guidance only, as {type(pipe).__name__} fails without "
                        f"({class_and_text(failure)})."
                    )
            self.progress(Event(f"{task}: dry run", len(points), len(points)))

    def binned(self, pipelines: Mapping[str, Any], points: Sequence[Point]) -> tuple[Point, ...]:
        """Runs pipelines that may draw another size than they are told once more, as they do it without being told.

        Returns:
            What was run, with the sizes that were drawn.
        """
        drawn: list[Point] = []
        for task, pipe in pipelines.items():
            if BINNING not in parameters(pipe) or BINNING in self.overrides:
                continue
            for point in dict.fromkeys(p for p in (*points, *corners(points)) if not p.extra):
                number, recorded = len(points) + len(drawn), len(self.recorder.calls)
                try:
                    self._call(pipe, task, replace(point, binned=True), number)
                except (CannotRun, NotRunnable):  # It has no table for its own size.
                    break
                height, width = _picture_size(self.recorder.calls[recorded:]) or (point.height, point.width)
                drawn.append(replace(point, height=height, width=width, binned=True))
        return tuple(drawn)

    def _call(self, pipe: Any, task: str, point: Point, number: int, without: tuple[str, ...] = ()) -> Any:
        pipe.set_progress_bar_config(disable=True)
        failures: list[Exception] = []
        furthest: tuple[int, Exception] | None = None
        recorded = len(self.recorder.calls)
        tried: set[tuple[Form, frozenset[str]]] = set()
        not_runnable: dict[str, Form] = {}
        pictures: dict[str, None] = {}
        hopeless = False
        for left, form, extra in itertools.product(((), STEPS_OF), point.forms, retries(pipe)):
            keywords = arguments(pipe, task, replace(point, form=form), extra, self.overrides)
            of_pictures = any(
                isinstance(keywords[n], torch.Tensor) for n in keywords.keys() - self.overrides.keys()
            )
            # What a module cannot do in two forms of the call, it may do where pictures keep their sizes, if at all.
            if form == "tensors" and not of_pictures or form != "tensors" and hopeless:
                continue
            out = {*without, *left} - self.overrides.keys()
            keywords = {name: value for name, value in keywords.items() if name not in out}
            if (form, frozenset(keywords)) in tried:
                continue
            tried.add((form, frozenset(keywords)))
            made_up = keywords.keys() - self.overrides.keys()
            pictures |= dict.fromkeys(n for n in keywords if n in made_up and is_visual(keywords[n]))
            try:
                with self.recorder.recording(number), torch.no_grad():
                    if point.tokens is not None:
                        keywords, self.tokens = embedded(pipe, keywords, point.tokens)
                        del self.recorder.calls[recorded:]
                    return pipe(**keywords)
            except Exception as error:
                if isinstance(error, LatentcError) and not isinstance(error, NotRunnable):
                    raise
                call_count = len(self.recorder.calls) - recorded
                if furthest is None or call_count > furthest[0]:
                    furthest = call_count, error
                del self.recorder.calls[recorded:]
                failures.append(error)
                if isinstance(error, NotRunnable) and not_runnable.setdefault(str(error), form) != form:
                    hopeless = True
        first = failures[0]
        if isinstance(first, OverflowError) and (name := pads_to_no_length(pipe.components)):
            raise LatentcError(
                f"{type(pipe).__name__} pads prompts to the model_max_length of '{name}', which has none.",
                f"Write it into {name}/tokenizer_config.json: as many tokens as the text encoder has positions "
                '(e.g. "model_max_length": 77).',
            ) from first
        for failed in failures:
            cause = failed.__cause__ if isinstance(failed, NotRunnable) else None
            failure = cause if isinstance(cause, Exception) else failed
            if before := call_before(type(pipe), pipe.components, failure):
                raise LatentcError(
                    f"{type(pipe).__name__} wants its '{before}' called before it is called itself "
                    f"({class_and_text(failure)}), and an artifact begins with the call.",
                    "Run it in PyTorch; latentc compiles pipelines that one call draws with.",
                ) from failure
        assert furthest is not None
        cause = furthest[1]
        if isinstance(cause, NotRunnable) and not cause.hint:
            raise NotRunnable(
                f"{cause.message.removesuffix('.')} (at {_sizes(point)}).",
                "Choose another --size" + (", or fewer --frames" if point.frames else ""),
            ) from cause.__cause__
        if isinstance(cause, LatentcError):
            raise cause
        self._raise_refused(pipe, task, point, number, cause)
        absent = list(missing(parameters(pipe), self.overrides, str(cause)))
        if not absent and pictures:
            hint = (
                f"It was given {', '.join(pictures)} in the forms of most pipelines (a picture, a list of them, a "
                f"tensor). A grid is given so: --arg {next(iter(pictures))}="
                '\'[["@1.png", "@2.png"], ["@3.png", null]]\'. If it takes another form, run it in PyTorch'
            )
        else:
            hint = (
                f"Choose another --size{' or --frames' if point.frames else ''}, or give the arguments it needs: "
                + (", ".join(absent[:3]) if absent else "--arg NAME=VALUE")
            )
        raise CannotRun(_cannot_be_run(pipe, point, cause), hint) from cause

    def _raise_refused(self, pipe: Any, task: str, point: Point, number: int, cause: Exception) -> None:
        """Raises `RefusedRequest` where it is the size that the pipeline refuses, or a user's own arguments."""
        message = _cannot_be_run(pipe, point, cause)
        if multiple := multiple_of(str(cause)):
            sizes = nearest_sizes(multiple, point.width, point.height)
            hint = f"The nearest sizes: {', '.join(f'--size {size}' for size in sizes)}"
            raise RefusedRequest(message, hint, multiple) from cause
        if not self.overrides:
            return
        recorded = len(self.recorder.calls)
        try:
            DryRun(self.recorder, {}, silent)._call(pipe, task, point, number)
        except Exception:
            return  # It fails without them as well, so that they say nothing.
        finally:
            del self.recorder.calls[recorded:]
        overrides = " ".join(f"--arg {name}" for name in self.overrides)
        raise RefusedRequest(message, f"It runs without {overrides}: give other values.") from cause


def _exactly(height: int, width: int) -> SizeRange:
    return SizeRange(DimRange(min=width, max=width), DimRange(min=height, max=height))


def _cannot_be_run(pipe: Any, point: Point, cause: Exception) -> str:
    return f"{type(pipe).__name__} cannot be run at {_sizes(point)}: {class_and_text(cause)}"


class CannotRun(LatentcError):
    """A pipeline's call fails, however its prompts and pictures are passed."""


class RefusedRequest(UsageError, CannotRun):
    """It fails for what was asked for: a size, or arguments of the user's.

    Attributes:
        multiple: what the sides of pictures must be multiples of; 0 where they are not what is refused.
    """

    def __init__(self, message: str, hint: str, multiple: int = 0) -> None:
        super().__init__(message, hint)
        self.multiple = multiple

    def tell_of_range(self, size: SizeRange | None) -> None:
        """Tells the nearest range in place of sizes, where a range was asked for: one of its sizes was tried."""
        if (
            self.multiple
            and size is not None
            and size.width == size.height
            and size.width.min < size.width.max
        ):
            ends = (
                nearest_sizes(self.multiple, side, side)[index].partition("x")[0]
                for side, index in ((size.width.min, 0), (size.width.max, -1))
            )
            self.hint = f"Sizes are multiples of {self.multiple}: --size {'..'.join(ends)}"


def _trained_side(pipe: Any) -> int | None:
    """Pixels of a side of the pictures that the pipeline's denoiser was trained on; None where no model tells."""
    scale = getattr(pipe, "vae_scale_factor", 1)
    for model in pipe.components.values():
        # An autoencoder's is of pictures, and often nobody's.
        if not isinstance(model, torch.nn.Module) or hasattr(model, "decode"):
            continue
        side = getattr(getattr(model, "config", None), "sample_size", None)
        if isinstance(side, int) and isinstance(scale, int) and 0 < side * scale <= _LARGEST_SIDE:
            return side * scale
    return None


def _sizes(point: Point) -> str:
    return f"{point.width}x{point.height}, batch {point.batch}" + (
        f", {point.frames} frames" if point.frames else ""
    )


def _picture_size(calls: Sequence[Call]) -> tuple[int, int] | None:
    """Height and width of the pictures that the last of some calls gives back."""
    for call in reversed(calls):
        for spec in call.outputs.values():
            if len(spec.shape) == 4 and spec.shape[1] == 3:
                return spec.shape[2], spec.shape[3]
    return None
