"""What draws in a worker: an artifact, or the model that it was compiled from, in PyTorch."""

from __future__ import annotations

import copy
import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError
from artifacts.serve import Work
from bench.worker import Drawn, Request, reply
from runtimes.quiet import quiet_libraries

if TYPE_CHECKING:
    import numpy as np

    from artifacts.manifest import Manifest
    from runtimes.pipeline import Pipeline


@dataclass
class ArtifactEngine:
    """An artifact in its session.

    Attributes:
        device, compute: as `latentc generate` takes them.
        task: one of the artifact's; None for its first.
    """

    path: str
    device: str = "auto"
    task: str | None = None
    compute: str = "auto"

    def prepare(self) -> None:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401

        from artifacts.reading import read_manifest
        from runtimes.classes import import_class
        from runtimes.sessions import table

        manifest = read_manifest(Path(self.path).absolute())
        table.get(manifest.target).devices()
        for name in classes(manifest):
            import_class(name)

    def open(self) -> dict[str, Any]:
        from runtimes.compute import summary
        from runtimes.pipeline import load
        from runtimes.sessions.common import threads

        self._pipeline: Pipeline = load(self.path, device=self.device, task=self.task, compute=self.compute)
        self._pipeline.open()
        self._latents = Latents(self._pipeline.diffusers)
        about = {"compute": summary(self._pipeline.computes)}
        return {"threads": threads(), "device": self.device, "about": about}

    def draw(self, request: Request) -> Drawn:
        self._latents.clear()
        start = time.perf_counter()
        result = self._pipeline.generate(
            request.prompt,
            seed=request.seed,
            steps=request.steps,
            guidance=request.guidance,
            size=request.size,
        )
        seconds = time.perf_counter() - start
        times = result.timings
        components = {name: (each.calls, each.seconds) for name, each in times.components.items()}
        return Drawn(
            _pixels(result.images),
            seconds,
            times.steps,
            components,
            self._latents.stacked(),
            self._latents.first_after(start),
        )


@dataclass
class TorchEngine:
    """diffusers' own pipeline in PyTorch on the CPU.

    Attributes:
        root: a diffusers folder.
        pipeline: class path of the pipeline, as manifests have it.
        absent: optional components that are left out.
        classes: what is imported before the time is taken, as `classes` gives them.
        methods: which methods of components are timed ("unet.forward").
        precision: "fp32" or "bf16".
        channels_last: memory format of convolution weights and their inputs.
        compile: run the components' methods through `torch.compile`.
    """

    root: str
    pipeline: str
    absent: Sequence[str] = ()
    classes: Sequence[str] = ()
    methods: Sequence[str] = ()
    precision: str = "fp32"
    variant: str | None = None
    channels_last: bool = False
    compile: bool = False

    def prepare(self) -> None:
        import diffusers  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401

        import runtimes.bars  # noqa: F401
        from runtimes.classes import import_class

        for name in (self.pipeline, *self.classes):
            import_class(name)

    def open(self) -> dict[str, Any]:
        import torch
        from diffusers import DiffusionPipeline
        from diffusers.utils import logging

        from runtimes.assemble import absent_components
        from runtimes.classes import import_subclass
        from runtimes.meter import Meter
        from runtimes.sessions.common import threads

        wanted = threads()
        if wanted is not None:
            torch.set_num_threads(wanted)
        logging.disable_progress_bar()
        cls: Any = import_subclass(self.pipeline, DiffusionPipeline, "pipeline")
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]
        try:
            self.pipe: Any = cls.from_pretrained(
                self.root,
                dtype=dtype,
                local_files_only=True,
                variant=self.variant,
                **(absent_components(Path(self.root), cls) | dict.fromkeys(self.absent)),
            )
        except (OSError, ValueError, TypeError) as error:
            raise LatentcError(f"PyTorch cannot load {self.root} as {cls.__name__}: {error}") from error
        self._meter = Meter()
        if self.precision != "fp32":
            noise_in_fp32(self.pipe, dtype)
        for name in self.methods:
            self._time(name)
        self._scheduler = getattr(self.pipe, "scheduler", None)
        self._latents = Latents(self.pipe)
        return {"threads": torch.get_num_threads(), "device": "cpu"}

    def _time(self, name: str) -> None:
        """Times the method `name` ("unet.forward"; "model.language_model.forward" of a part)."""
        component, _, path = name.partition(".")
        owner = getattr(self.pipe, component, None)
        if owner is None:
            return
        import torch

        path, _, leaf = path.rpartition(".")
        owner = owner.get_submodule(path)
        if self.channels_last:
            owner.to(memory_format=torch.channels_last)
        inner = getattr(owner, leaf)
        if self.compile:
            inner = torch.compile(inner)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._meter.measure(component, name.partition(".")[2]):
                return inner(*args, **kwargs)

        object.__setattr__(owner, leaf, timed)

    def draw(self, request: Request) -> Drawn:
        import torch

        from artifacts.progress import silent
        from runtimes.bars import Bars
        from runtimes.meter import Meter
        from runtimes.options import arguments
        from runtimes.result import merge

        self._latents.clear()
        if self._scheduler is not None:
            self.pipe.scheduler = copy.deepcopy(self._scheduler)
        self._meter = Meter()
        self.pipe.progress_bar = Bars(self._meter, silent, 1).bar
        width, height = request.size or (None, None)
        options = {
            "prompt": request.prompt,
            "steps": request.steps,
            "guidance": request.guidance,
            "seed": torch.Generator("cpu").manual_seed(request.seed),
            "width": width,
            "height": height,
        }
        given = arguments(self.pipe, options, {})
        start = time.perf_counter()
        with torch.no_grad():
            output = self.pipe(**given)
        seconds = time.perf_counter() - start
        times = self._meter.timings()
        components = {name: (each.calls, each.seconds) for name, each in times.components.items()}
        images = merge([dict(output)])[1]
        return Drawn(
            _pixels(images),
            seconds,
            times.steps,
            components,
            self._latents.stacked(),
            self._latents.first_after(start),
        )


def classes(manifest: Manifest) -> tuple[str, ...]:
    """Class paths of an artifact's pipelines and modules: diffusers and transformers import theirs when first used."""
    return (*manifest.pipelines.values(), *(component.class_path for component in manifest.components))


class Latents:
    """Keeps what a pipeline's scheduler returns from each step: the one place that all loops share."""

    def __init__(self, pipe: Any) -> None:
        self._found: list[np.ndarray] = []
        self._first: float | None = None
        scheduler = getattr(pipe, "scheduler", None)
        if callable(getattr(scheduler, "step", None)):
            # The class, not the instance: pipelines and `generate` copy schedulers.
            assert scheduler is not None
            scheduler.__class__ = _watched(type(scheduler), self._keep)

    def _keep(self, sample: np.ndarray) -> None:
        if not self._found:
            self._first = time.perf_counter()
        self._found.append(sample)

    def clear(self) -> None:
        """Before a new picture."""
        self._found.clear()
        self._first = None

    def first_after(self, start: float) -> float | None:
        """Seconds from `start`, of `time.perf_counter`, to the end of the first step; None where none was seen."""
        return None if self._first is None else self._first - start

    def stacked(self) -> np.ndarray | None:
        """float32 [steps, ...] of one picture; None where nothing was seen, or shapes varied."""
        import numpy as np

        if not self._found or len({each.shape for each in self._found}) > 1:
            return None
        return np.stack(self._found)


def _watched(cls: type, keep: Callable[[np.ndarray], None]) -> type:
    """`cls` under its own name, whose `step` also hands the new sample to `keep`."""
    inner: Any = getattr(cls, "step")  # noqa: B009

    @functools.wraps(inner)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(self, *args, **kwargs)
        sample = result[0]
        if hasattr(sample, "detach"):
            # A copy: some schedulers and pipelines go on in place.
            keep(sample.detach().float().cpu().numpy().copy())
        return result

    return type(cls.__name__, (cls,), {"__module__": cls.__module__, "step": step})


def noise_in_fp32(pipe: Any, dtype: Any) -> None:
    """Makes `pipe` draw its noise in fp32 and cast it: in another type one seed is another picture."""
    import torch

    if not callable(getattr(pipe, "prepare_latents", None)):
        return
    inner = pipe.prepare_latents

    @functools.wraps(inner)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        wide = [torch.float32 if a is dtype else a for a in args]
        named = {k: torch.float32 if v is dtype else v for k, v in kwargs.items()}
        made = inner(*wide, **named)
        return made.to(dtype) if isinstance(made, torch.Tensor) else made

    pipe.prepare_latents = prepare


def _pixels(images: Sequence[Any]) -> np.ndarray:
    """The first picture as uint8 [height, width, 3]."""
    import numpy as np

    if not images:
        raise LatentcError(
            "the pipeline returned no pictures, so there is nothing to compare.",
            "Bench the artifact of a whole pipeline, not of a prior.",
        )
    return np.asarray(images[0].convert("RGB"))


ENGINES: dict[str, Any] = {"artifact": ArtifactEngine, "pytorch": TorchEngine}


def drawing(name: str, options: str) -> Work:
    """The work of a process that draws with the engine `name`, made with `options`, a JSON object."""
    quiet_libraries()
    return functools.partial(reply, ENGINES[name](**json.loads(options)))
