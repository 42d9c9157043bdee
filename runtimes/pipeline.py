"""An artifact as a pipeline: `load` it, then call it as diffusers' own, or `generate` images."""

from __future__ import annotations

import copy
import secrets
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from artifacts.contents import Contents
from artifacts.copying import copy_artifact
from artifacts.errors import UsageError
from artifacts.manifest import DimRange, Manifest
from artifacts.pinned import Pinned
from artifacts.progress import Progress, silent
from artifacts.verify import Artifact, open_artifact
from runtimes import flaws
from runtimes.assemble import assemble, check_components
from runtimes.bars import Bars
from runtimes.batches import TEXTS, Draw, count, draws, of_call, of_calls, texts_of
from runtimes.compute import summary
from runtimes.graphs import Graphs, cache_dir
from runtimes.meter import Cancelled, Meter, NotFinite
from runtimes.notebook import bars_where_seen, notebook_bars
from runtimes.options import arguments, check_range, parameters, parse_size, synonym
from runtimes.result import Result, merge
from runtimes.schedulers import blamed, make_scheduler
from runtimes.shell import Runner, build_shell, undone_on_failure

__all__ = ["Cancelled", "Pipeline", "Result", "load"]


def load(
    path: str | Path,
    device: str = "auto",
    task: str | None = None,
    cache: bool = True,
    progress: Progress = silent,
    compute: str = "auto",
) -> Pipeline:
    """Verifies the artifact at `path` and puts its pipeline together. Graphs are opened when first used.

    A file that was verified before and has not changed since is not read again, where `cache` is on. One that changes
    after `load` is an error when it is used.

    Args:
        path: the artifact's folder.
        device: one that `latentc targets` lists for the artifact's target, or "auto".
        task: one of the artifact's, or None for its first.
        cache: keep compiled graphs between starts, and which files were verified, in $LATENTC_CACHE or the user's
            cache folder.
        progress: told of verifying, opening and, unless `generate` is given its own, of steps.
        compute: the type of the arithmetic, "fp32", "fp16" or "bf16"; "auto" for what the device is best at, and for
            fp32 where an artifact's weights are stored in it, or a graph was measured to fail in another.

    Raises:
        LatentcError: the artifact is damaged, or needs a library or device that is not here.
        UsageError: it has no such task, or the device does not have the type to compute in.
    """
    artifact = open_artifact(path, progress=progress, memory=cache_dir() / "verified" if cache else None)
    manifest, files = artifact.manifest, Pinned(artifact)
    tasks = list(manifest.pipelines)
    chosen = tasks[0] if task is None else task
    if chosen not in manifest.pipelines:
        raise UsageError(
            f"the artifact has no task '{chosen}' (it has: {', '.join(tasks)}).",
            f"Compile it in: latentc compile MODEL OUT --task {chosen}",
        )
    graphs = Graphs(files.root, manifest, device, cache_dir() if cache else None, progress, compute, files)
    return Pipeline(artifact.root, manifest, chosen, graphs, progress, files)


# Options that are given once for each image to a pipeline that makes one image of each.
_REPEATED = (*TEXTS, "image", "mask")


class Pool(Runner, Protocol):
    """What a pipeline needs of `runtimes.graphs.Graphs`."""

    @property
    def note(self) -> str:
        """What a user is told of the device, and of the types that it computes in."""

    @property
    def computes(self) -> Mapping[str, str]:
        """Graph folder -> the type that it is computed in."""

    def open_all(self) -> None:
        """Opens every graph."""

    def close(self) -> None:
        """Frees all graphs."""


class Pipeline:
    """One task of an artifact: called as diffusers' own pipeline is, or by `generate`.

    `diffusers` is that pipeline itself. Threads may share a pipeline; it makes the pictures of one call at a time.
    """

    from_pretrained = staticmethod(load)
    """`load` under the name that diffusers has for it."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        task: str,
        graphs: Pool,
        progress: Progress = silent,
        files: Contents | None = None,
    ) -> None:
        """
        Args:
            files: what the shells, schedulers and tokenizers are made of; None for the folder `root` as it is.
        """
        self.root = root
        self.manifest = manifest
        self.task = task
        self._graphs = graphs
        self._progress = progress
        self._meter = Meter()
        self._lock = threading.Lock()
        source = files or root
        check_components(manifest.pipelines, task, (c.name for c in manifest.components))
        self._shells = {
            c.name: build_shell(c, source, graphs, lambda: self._meter) for c in manifest.components
        }
        self.diffusers: Any = assemble(source, manifest.pipelines[task], self._shells)
        self._scheduler = getattr(self.diffusers, "scheduler", None)

    def open(self) -> None:
        """Opens every graph now, rather than when it is first used.

        Raises:
            LatentcError: no such device, or the vendor refused a file.
        """
        self._graphs.open_all()

    @property
    def note(self) -> str:
        """What a user should know of the device that runs it and its types; mostly nothing."""
        return self._graphs.note

    @property
    def computes(self) -> dict[str, str]:
        """Graph folder -> the type that it is computed in here ("fp32", "fp16", "bf16")."""
        return dict(self._graphs.computes)

    def close(self) -> None:
        """Frees all graphs; twice is harmless."""
        self._graphs.close()

    @property
    def scheduler(self) -> Any:
        """The scheduler that every call starts from, a copy of which it uses; None where there is none.

        May be set, to one of diffusers: ``pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)``
        """
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        with self._lock:
            self._scheduler = scheduler

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of tqdm for the progress bars, as of a diffusers pipeline; ``disable=True`` for none."""
        self.diffusers.set_progress_bar_config(**options)

    def save_pretrained(self, folder: str | Path, force: bool = False) -> Path:
        """Copies the artifact to `folder`, which appears when every copied file is what the manifest says.

        Args:
            force: replace an artifact that is there.

        Returns:
            The folder, as an absolute path.

        Raises:
            UsageError: something is there already.
            LatentcError: a file of the artifact has changed since it was verified, or the disk is full; `folder`
                does not appear.
        """
        with notebook_bars(self._progress) as progress:
            return copy_artifact(Artifact(self.root, self.manifest), folder, force, progress)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls diffusers' own pipeline: what that takes, and what it returns.

        The size is the artifact's where that has only one and none is asked for. A progress bar is drawn on terminals
        and in notebooks, unless `set_progress_bar_config` says otherwise.

        Raises:
            LatentcError: a component is not compiled for what the pipeline asked of it.
        """
        with self._lock, bars_where_seen((self.diffusers, *_parts(self.diffusers))):
            self._begin(None)
            self._meter = Meter()
            return self._called(*args, **{**self._unasked_size(args, kwargs), **kwargs})

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        image: Any = None,
        mask: Any = None,
        strength: float | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] | None = None,
        size: str | tuple[int, int] | None = None,
        images: int = 1,
        scheduler: str | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        **extra: Any,
    ) -> Result:
        """Makes images.

        What is None is left to the pipeline's own default. The noise comes from a CPU generator, so that one
        seed gives one picture on every runtime and device; image `i` has the seed ``seed + i``, however many
        are made at once.

        Args:
            image: what to start from (PIL). mask: white where to paint. strength: 0 to 1, how much to change.
            steps: denoising steps. guidance: the classifier-free guidance scale.
            seed: of the first image, or a list with that of each prompt's first image; None for a random one, which
                the result names.
            size: (width, height) in pixels, or "512x512".
            images: how many of each prompt; made, with those of other prompts, in batches as large as the artifact
                allows.
            scheduler: class name of one of diffusers' schedulers, and options of it: "EulerDiscreteScheduler" or
                "DPMSolverMultistepScheduler:use_karras_sigmas=true,solver_order=3". What is not given is as in the
                model's own.
            progress: told of each step; in a notebook, bars are drawn where neither this nor `load` is given one.
            cancel: set it from another thread to stop before the next call of a component.
            extra: the pipeline's own parameters, by their own names.

        Raises:
            UsageError: an option that this pipeline has no parameter for, or outside the compiled ranges; a scheduler
                that there is not, or that the pipeline cannot use.
            Cancelled: `cancel` was set.
            LatentcError: a component is not compiled for what the pipeline asked of it.
        """
        with self._lock, self._reporting(progress) as progress:
            return self._generate(
                {
                    "prompt": prompt,
                    "negative_prompt": negative_prompt,
                    "image": image,
                    "mask": mask,
                    "strength": strength,
                    "steps": steps,
                    "guidance": guidance,
                },
                secrets.randbelow(2**32) if seed is None else seed,
                parse_size(size),
                images,
                scheduler,
                progress,
                cancel,
                extra,
            )

    def _generate(
        self,
        options: dict[str, Any],
        seed: int | Sequence[int],
        size: tuple[int, int] | None,
        images: int,
        scheduler: str | None,
        progress: Progress,
        cancel: threading.Event | None,
        extra: Mapping[str, Any],
    ) -> Result:
        pipe = self.diffusers
        known = parameters(pipe)
        options |= dict(zip(("width", "height"), self._size(size, known), strict=True))
        if options["image"] is not None:
            self._check_image(options["image"], known)
        # Before any work: an option that the pipeline does not have is an error now.
        arguments(pipe, options, extra)
        texts = texts_of(known) & {name for name, value in {**options, **extra}.items() if value is not None}
        prompts = count(options["prompt"], {name: {**options, **extra}[name] for name in texts})
        wanted = draws(prompts or 1, seed, images)
        self._begin(scheduler)
        self._meter = Meter(cancel=cancel)
        limits = self.manifest.sizes.get("batch", DimRange(min=1, max=1))
        calls = of_calls(wanted, known, limits)
        bars = Bars(self._meter, progress, len(calls))
        outputs: list[Mapping[str, Any]] = []
        broken: list[NotFinite] = []
        with _bars(bars, (pipe, *_parts(pipe))):
            for number, chunk in enumerate(calls, start=1):
                bars.batch = number
                with nullcontext() if scheduler is None else blamed(pipe):
                    outputs.append(self._run(chunk, options, extra, known, texts if prompts else frozenset()))
                broken += self._meter.take_not_finite()
        merged, pictures = merge(outputs)
        return Result(
            images=pictures,
            seed=wanted[0].seed,
            seeds=tuple(draw.seed for draw in wanted),
            timings=self._meter.timings(),
            parameters=self._parameters(
                options, extra, seed if isinstance(seed, int) else list(seed), images, scheduler
            ),
            outputs=merged,
            flaws=flaws.find(
                pictures, len(wanted), broken, merged, self.manifest, self.root, self._graphs.computes
            ),
        )

    def _begin(self, scheduler: str | None) -> None:
        """Gives the pipeline a fresh scheduler: they keep state, and an interrupted run leaves it half-way.

        A copy, as `from_config` may choose other defaults.
        """
        if self._scheduler is not None:
            self.diffusers.scheduler = copy.deepcopy(self._scheduler)
        if scheduler is not None:
            self.diffusers.scheduler = make_scheduler(self.diffusers, scheduler)

    def _run(
        self,
        chunk: tuple[Draw, ...],
        options: Mapping[str, Any],
        extra: Mapping[str, Any],
        known: Mapping[str, Any],
        texts: Collection[str],
    ) -> Mapping[str, Any]:
        """One call of the pipeline: a batch of the images in `chunk`."""
        import numpy as np
        import torch

        seeds, prompts = [draw.seed for draw in chunk], [draw.prompt for draw in chunk]
        generators = [torch.Generator("cpu").manual_seed(s) for s in seeds]
        full, extra = of_call(options, texts, prompts), of_call(extra, texts, prompts)
        if synonym("seed", known) and "generator" not in extra:
            full["seed"] = generators[0] if len(generators) == 1 else generators
        several = len(set(prompts)) > 1
        if len(seeds) > 1 and synonym("images", known):
            full["images"] = None if several else len(seeds)
        elif len(seeds) > 1:
            once = set(_REPEATED) - (set(TEXTS) if several else set())
            repeated = {name: full[name] for name in once if full.get(name) is not None}
            full |= {name: [value] * len(seeds) for name, value in repeated.items()}
        given = arguments(self.diffusers, full, extra)
        if "return_dict" in known:
            given["return_dict"] = True
        # NumPy warns where a picture is made of numbers that are not finite: `flaws` says that, and of what.
        with np.errstate(invalid="ignore"):
            output = self._called(**given)
        return dict(output) if isinstance(output, Mapping) else {"output": output}

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        """What diffusers' pipeline returns of one call."""
        import torch

        with torch.no_grad(), undone_on_failure(self._shells.values()):
            return self.diffusers(*args, **kwargs)

    def _unasked_size(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
        """The size of an artifact that has only one, by the names of parameters that a call leaves out."""
        named = list(parameters(self.diffusers))
        asked = {*named[: len(args)], *kwargs}
        size = zip(("width", "height"), self._size(None, parameters(self.diffusers)), strict=True)
        return {name: value for name, value in size if value is not None and name not in asked}

    @contextmanager
    def _reporting(self, progress: Progress | None) -> Iterator[Progress]:
        """`progress`, or the one that `load` was given; in a notebook, bars where there is neither."""
        config = getattr(self.diffusers, "_progress_bar_config", {})
        if progress is not None or config.get("disable"):
            yield progress or self._progress
            return
        with notebook_bars(self._progress) as bars:
            yield bars

    def _size(self, size: tuple[int, int] | None, known: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """Width and height to pass: those asked for, or those of an artifact that has only one size."""
        sizes = self.manifest.sizes
        if size is not None:
            check_range("a width of", size[0], sizes, "width")
            check_range("a height of", size[1], sizes, "height")
            return size
        fixed = [
            sizes[n].min if n in sizes and sizes[n].min == sizes[n].max else None for n in ("width", "height")
        ]
        found = [
            value if synonym(n, known) else None for n, value in zip(("width", "height"), fixed, strict=True)
        ]
        return found[0], found[1]

    def _check_image(self, image: Any, known: Mapping[str, Any]) -> None:
        """An image sets the size where the pipeline has no parameter for it."""
        if (
            synonym("width", known) is not None
            or not hasattr(image, "size")
            or not isinstance(image.size, tuple)
        ):
            return
        check_range("an image with a width of", image.size[0], self.manifest.sizes, "width")
        check_range("an image with a height of", image.size[1], self.manifest.sizes, "height")

    def _parameters(
        self,
        options: Mapping[str, Any],
        extra: Mapping[str, Any],
        seed: int | list[int],
        images: int,
        chosen: str | None,
    ) -> dict[str, Any]:
        kept = {k: v for k, v in {**options, **extra}.items() if _is_plain(v)}
        scheduler = getattr(self.diffusers, "scheduler", None)
        if scheduler is not None:
            kept["scheduler"] = chosen or type(scheduler).__name__
        return kept | {
            "seed": seed,
            "images": images,
            "task": self.task,
            "model": self.manifest.source.id,
            "target": self.manifest.target,
            "precision": self.manifest.precision,
            "compute": summary(self._graphs.computes),
        }


def _parts(pipe: Any) -> list[Any]:
    """The pipelines that a combined pipeline (a prior and its decoder) runs one after the other."""
    from diffusers import DiffusionPipeline

    return [value for value in vars(pipe).values() if isinstance(value, DiffusionPipeline)]


def _is_plain(value: Any) -> bool:
    """Whether JSON holds it."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


@contextmanager
def _bars(bars: Bars, parts: Iterable[Any]) -> Iterator[None]:
    """Has the pipelines report to `bars` for a while, in place of bars of their own."""
    parts = list(parts)
    for part in parts:
        part.progress_bar = bars.bar
    try:
        yield
    finally:
        for part in parts:
            del part.progress_bar
