"""Makes images with one of diffusers' pipelines, whatever its components run on."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from artifacts.argument_types import typed
from artifacts.errors import UsageError
from artifacts.foreseen import foreseen
from artifacts.manifest import DimRange
from artifacts.progress import Progress, silent
from runtimes import clips, requested_sizes
from runtimes.acceleration import tolerance_of
from runtimes.bars import Bars
from runtimes.batches import TEXTS, Draw, count, draws, of_call, of_calls, texts_of, torch_noise
from runtimes.callers_code import passed, passing
from runtimes.flaws import Flaw
from runtimes.forecaster import Count
from runtimes.generate_options import arguments, check_texts, parameters, parse_size, synonym
from runtimes.meter import Cancel, Meter, NotFinite
from runtimes.notebook import notebook_bars
from runtimes.process_lock import ProcessLock
from runtimes.refusals import refusals
from runtimes.result import Result, merge
from runtimes.schedulers import Schedulers, blamed, check_scheduler
from runtimes.tiles import parse_tile
from runtimes.weighted import Weighting

# Options that are given once for each image to a pipeline that makes one image of each.
_REPEATED = (*TEXTS, "image", "mask")


class Generator:
    """One of diffusers' pipelines, `diffusers`, which makes images by `generate`.

    Threads may share it; it makes the pictures of one call at a time. What a call calls (a callback, `progress`) may
    set the scheduler, and draw with other pipelines only.
    """

    def __init__(self, diffusers: Any, sizes: Mapping[str, DimRange], progress: Progress = silent) -> None:
        """
        Args:
            sizes: the widths, heights, "frames" of a video and numbers of images at once ("batch") that the components
                take; a name that is left out takes any of them, and one image.
        """
        self.diffusers = diffusers
        self._sizes = sizes
        self._progress = progress
        self._meter = Meter()
        self._lock = ProcessLock()
        self._scheduler = self._placed = getattr(diffusers, "scheduler", None)
        self._schedulers = Schedulers()
        self._tolerance = 0.0
        self._count: Count | None = None
        self._note = ""

    @property
    def scheduler(self) -> Any:
        """The scheduler that every call starts from, a copy of which it uses; None where there is none.

        May be set, here or on `diffusers`, to one of diffusers:
        ``pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)``
        A callback may set it, too: as in diffusers the next step is made by it, if its timesteps are set.

        Raises:
            UsageError: it is set to what is no scheduler.
        """
        current = getattr(self.diffusers, "scheduler", None)
        return self._scheduler if current is self._placed else current

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        if scheduler is not None:
            check_scheduler(scheduler)
        with self._lock.joined():
            self._scheduler = scheduler
            self._place(scheduler)

    def _place(self, scheduler: Any) -> None:
        self.diffusers.scheduler = self._placed = scheduler

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of tqdm for the progress bars, as of a diffusers pipeline; ``disable=True`` for none."""
        self.diffusers.set_progress_bar_config(**options)

    @typed
    def generate(
        self,
        /,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        image: Any = None,
        mask: Any = None,
        strength: float | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] | None = None,
        size: str | int | tuple[int, int] | None = None,
        images: int = 1,
        frames: int | None = None,
        scheduler: Any = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        accelerate: str | float | None = None,
        weighted: bool = False,
        tile: str | int | None = None,
        **extra: Any,
    ) -> Result:
        """Makes images, videos or sounds: what the pipeline makes.

        What is None is left to the pipeline's own default. The noise comes from a CPU generator, so that one
        seed gives one picture on every runtime and device; image `i` has the seed ``seed + i``, however many
        are made at once. Noise that a pipeline draws from torch's own generator has the first seed of the images that
        are made at once.

        Args:
            image: what to start from (PIL). mask: white where to paint. strength: 0 to 1, how much to change.
            steps: denoising steps. guidance: the classifier-free guidance scale.
            seed: of the first image, or a list with that of each prompt's first image; None for a random one, which
                the result names.
            size: (width, height) in pixels, "512x384", or 512 for a square.
            images: how many of each prompt; made, with those of other prompts, in batches as large as the artifact
                allows.
            frames: of each video.
            scheduler: class name of one of diffusers' schedulers, and options of it: "EulerDiscreteScheduler" or
                "DPMSolverMultistepScheduler:use_karras_sigmas=true,solver_order=3". What is not given is as in the
                model's own. Or such a scheduler itself, a copy of which makes the call's steps.
            progress: told of each step; in a notebook, bars are drawn where neither this nor `load` is given one.
            cancel: set it from another thread to stop before the next call of a component.
            accelerate: steps whose calls are forecast from earlier ones rather than made: "off", "auto" for what the
                artifact was tuned to, or the estimated relative error that a forecast may have (0.1). None for what
                `load` was given.
            weighted: words of the prompts have weights, as `compel` reads them: "a (red)1.4 circle", "a red++ circle".
            tile: pictures are decoded and encoded in overlapping tiles: "off" for never, a number of pixels for those
                that are larger, "auto" for where the graph or the memory does not take them whole. None for what `load`
                was given.
            extra: the pipeline's own parameters, by their own names.

        Raises:
            UsageError: an option that this pipeline has no parameter for, or outside the compiled ranges, or that the
                pipeline's own code refuses; a scheduler that there is not, or that the pipeline cannot use; text that
                is not Unicode; a callback draws with the pipeline that calls it.
            Cancelled: `cancel` was set.
            LatentcError: a component is not compiled for what the pipeline asked of it.

        What a callback or `progress` raises passes as it is.
        """
        with self._lock, passed(), foreseen(), self._reporting(progress) as progress:
            return self._generate(
                {
                    "prompt": prompt,
                    "negative_prompt": negative_prompt,
                    "image": image,
                    "mask": mask,
                    "strength": strength,
                    "steps": steps,
                    "guidance": guidance,
                    "frames": frames,
                },
                secrets.randbelow(2**32) if seed is None else seed,
                parse_size(size),
                images,
                scheduler,
                progress,
                cancel,
                accelerate,
                weighted,
                tile,
                extra,
            )

    def _generate(
        self,
        options: dict[str, Any],
        seed: int | Sequence[int],
        size: tuple[int, int] | None,
        images: int,
        scheduler: Any,
        progress: Progress,
        cancel: Cancel | None,
        accelerate: str | float | None,
        weighted: bool,
        tile: str | int | None,
        extra: Mapping[str, Any],
    ) -> Result:
        pipe = self.diffusers
        signature = parameters(pipe)
        options |= requested_sizes.numbers(
            size, options["frames"], options["image"], extra, self._sizes, pipe
        )
        requested_sizes.check_visuals({**options, **extra}, self._sizes, signature)
        check_texts({**options, **extra})
        # Before any work: an option that the pipeline does not have is an error now.
        arguments(pipe, options, extra)
        texts = texts_of(signature) & {
            name for name, value in {**options, **extra}.items() if value is not None
        }
        prompts = count(options["prompt"], {name: {**options, **extra}[name] for name in texts})
        wanted = draws(prompts or 1, seed, images)
        self._begin(scheduler)
        guidance = options["guidance"]
        if guidance is None:
            guidance = extra.get(synonym("guidance", signature) or "")
        self._prepare(accelerate, tile, guidance)
        self._meter = Meter(cancel=cancel)
        weighting = self._weighting() if weighted and options["prompt"] is not None else None
        limits = self._sizes.get("batch", DimRange(min=1, max=1))
        calls = of_calls(wanted, signature, limits)
        bars = Bars(self._meter, progress, len(calls))
        outputs: list[Mapping[str, Any]] = []
        broken: list[NotFinite] = []
        with _bars(bars, (pipe, *parts(pipe))):
            for number, chunk in enumerate(calls, start=1):
                bars.batch = number
                with (
                    refusals(pipe, {**options, **extra}),
                    nullcontext() if scheduler is None else blamed(pipe),
                    passing((progress, *options.values(), *extra.values())),
                ):
                    taken = texts if prompts else frozenset()
                    outputs.append(self._run(chunk, options, extra, signature, taken, weighting))
                broken += self._meter.take_not_finite()
        merged, pictures = merge(outputs)
        videos = clips.videos(merged) if "output_type" not in extra else ()
        pictures = pictures or tuple(frame for video in videos for frame in video)
        sounds = clips.sounds(merged)
        return Result(
            images=pictures,
            seed=wanted[0].seed,
            seeds=tuple(draw.seed for draw in wanted),
            timings=self._meter.timings(),
            parameters=self._parameters(
                options, extra, seed if isinstance(seed, int) else list(seed), images, scheduler, weighted
            ),
            outputs=merged,
            flaws=self._flaws(pictures, len(wanted), broken, merged),
            frames=videos,
            audio=sounds,
            frame_rate=clips.frame_rate(signature, extra) if videos else None,
            sample_rate=clips.sample_rate(pipe) if sounds else None,
            calls=self._count,
            note=self._note,
        )

    def _begin(self, scheduler: Any) -> None:
        """Gives the pipeline a fresh scheduler: they keep state, and an interrupted run leaves it half-way.

        A copy, as `from_config` may choose other defaults.
        """
        self._scheduler = self.scheduler
        if self._scheduler is not None:
            self._place(self._scheduler if scheduler is not None else copy.deepcopy(self._scheduler))
        if scheduler is not None:
            self._place(self._schedulers.make(self.diffusers, scheduler))

    def _prepare(self, accelerate: str | float | None, tile: str | int | None, guidance: Any) -> None:
        """Takes what a call is asked to do with steps that can be forecast, and with tiles; here nothing can.

        Args:
            guidance: the scale that is asked for; None for the pipeline's own.

        Raises:
            UsageError: it is asked for.
        """
        if accelerate is not None and tolerance_of(accelerate, 0.0):
            raise UsageError("only compiled pipelines are accelerated.", "Leave accelerate out.")
        if tile is not None and parse_tile(tile).mode == "on":
            raise UsageError("only compiled pipelines make pictures in tiles.", "Leave tile out.")

    def _run(
        self,
        chunk: tuple[Draw, ...],
        options: Mapping[str, Any],
        extra: Mapping[str, Any],
        signature: Mapping[str, Any],
        texts: Collection[str],
        weighting: Weighting | None,
    ) -> Mapping[str, Any]:
        """One call of the pipeline: a batch of the images in `chunk`."""
        import numpy as np
        import torch

        seeds, prompts = [draw.seed for draw in chunk], [draw.prompt for draw in chunk]
        generators = [torch.Generator("cpu").manual_seed(s) for s in seeds]
        full, extra = of_call(options, texts, prompts), of_call(extra, texts, prompts)
        if synonym("seed", signature) and "generator" not in extra:
            full["seed"] = generators[0] if len(generators) == 1 else generators
        several = len(set(prompts)) > 1
        if len(seeds) > 1 and synonym("images", signature):
            full["images"] = None if several else len(seeds)
        elif len(seeds) > 1:
            once = set(_REPEATED) - (set(TEXTS) if several else set())
            repeated = {name: full[name] for name in once if full.get(name) is not None}
            full |= {name: [value] * len(seeds) for name, value in repeated.items()}
        keywords = arguments(self.diffusers, full, extra)
        if weighting is not None:
            keywords |= weighting.arguments(keywords["prompt"], keywords.get("negative_prompt"))
        if "return_dict" in signature:
            keywords["return_dict"] = True
        # NumPy warns where a picture is made of numbers that are not finite: `flaws` says that, and of what.
        with np.errstate(invalid="ignore"), torch_noise(seeds[0]):
            output = self._called(**keywords)
        return dict(output) if isinstance(output, Mapping) else {"output": output}

    def _weighting(self) -> Weighting:
        import torch

        with torch.no_grad():
            return Weighting(self.diffusers, self._sizes.get("tokens"))

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        """What diffusers' pipeline returns of one call."""
        import torch

        with torch.no_grad():
            return self.diffusers(*args, **kwargs)

    def _flaws(
        self, pictures: Sequence[Any], images: int, broken: Sequence[NotFinite], outputs: Mapping[str, Any]
    ) -> tuple[Flaw, ...]:
        """What is wrong with the pictures of `images` draws, where that is looked for; see `runtimes.flaws.find`."""
        return ()

    def _about(self) -> Mapping[str, Any]:
        """What makes the images, for `Result.parameters`; JSON-compatible."""
        return {}

    @contextmanager
    def _reporting(self, progress: Progress | None) -> Iterator[Progress]:
        """`progress`, or the one that `load` was given; in a notebook, bars where there is neither."""
        config = getattr(self.diffusers, "_progress_bar_config", {})
        if progress is not None or config.get("disable"):
            yield progress or self._progress
            return
        with notebook_bars(self._progress) as bars:
            yield bars

    def _parameters(
        self,
        options: Mapping[str, Any],
        extra: Mapping[str, Any],
        seed: int | list[int],
        images: int,
        chosen: Any,
        weighted: bool,
    ) -> dict[str, Any]:
        settings = {k: v for k, v in {**options, **extra}.items() if _is_plain(v)}
        scheduler = getattr(self.diffusers, "scheduler", None)
        if scheduler is not None:
            settings["scheduler"] = chosen if isinstance(chosen, str) else type(scheduler).__name__
        if self._count is not None:
            settings |= {"accelerate": self._tolerance, "calls": str(self._count)}
        if weighted:
            settings["weighted"] = True
        return {**settings, "seed": seed, "images": images, **self._about()}


def parts(pipe: Any) -> list[Any]:
    """The pipelines that a combined pipeline (a prior and its decoder) runs one after the other."""
    from diffusers import DiffusionPipeline

    return [value for value in vars(pipe).values() if isinstance(value, DiffusionPipeline)]


def _is_plain(value: Any) -> bool:
    """Whether JSON holds it."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


@contextmanager
def _bars(bars: Bars, pipes: Iterable[Any]) -> Iterator[None]:
    """Has the pipelines report to `bars` for a while, in place of bars of their own."""
    pipes = list(pipes)
    for pipe in pipes:
        pipe.progress_bar = bars.bar
    try:
        yield
    finally:
        for pipe in pipes:
            del pipe.progress_bar
