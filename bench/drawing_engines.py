"""What draws in a worker: an artifact, or the model that it was compiled from, in PyTorch."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from artifacts.errors import LatentcError
from artifacts.worker_loop import Work
from bench.drawing_worker import Drawn, Request, reply
from runtimes.quiet import quiet_libraries

if TYPE_CHECKING:
    import numpy as np

    from artifacts.manifest import Manifest
    from runtimes.generation import Generator
    from runtimes.pipeline import Pipeline
    from runtimes.reference import Reference
    from runtimes.result import Result


@dataclass
class ArtifactEngine:
    """An artifact in its session.

    Attributes:
        device, compute, accelerate, strict: as `latentc generate` takes them.
        task: one of the artifact's; None for its first.
    """

    path: str
    device: str = "auto"
    task: str | None = None
    compute: str = "auto"
    accelerate: str = "auto"
    strict: bool = False

    def prepare(self) -> None:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401

        from artifacts.manifest_reading import read_manifest
        from runtimes.sessions import session_table
        from runtimes.trusted_classes import import_class

        manifest = read_manifest(Path(self.path).absolute())
        session_table.get(manifest.target).devices()
        for name in classes(manifest):
            import_class(name)

    def open(self) -> dict[str, Any]:
        from runtimes.compute import summary
        from runtimes.pipeline import load
        from runtimes.sessions.common import threads

        self._pipeline: Pipeline = load(
            self.path,
            device=self.device,
            task=self.task,
            compute=self.compute,
            accelerate=self.accelerate,
            strict=self.strict,
        )
        self._pipeline.open()
        self._latents = Latents(self._pipeline.diffusers)
        about = {"compute": summary(self._pipeline.computes), "device": self._pipeline.device}
        return {"threads": threads(), "device": self.device, "about": about}

    def draw(self, request: Request) -> Drawn:
        return _drawn(self._pipeline, self._latents, request)


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
    precision: Literal["fp32", "bf16"] = "fp32"
    variant: str | None = None
    channels_last: bool = False
    compile: bool = False

    def prepare(self) -> None:
        import diffusers  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401

        import runtimes.reference  # noqa: F401
        from runtimes.trusted_classes import import_class

        for name in (self.pipeline, *self.classes):
            import_class(name)

    def open(self) -> dict[str, Any]:
        import torch

        from runtimes import reference
        from runtimes.sessions.common import threads

        wanted = threads()
        if wanted is not None:
            torch.set_num_threads(wanted)
        self._reference: Reference = reference.load(
            self.root,
            self.pipeline,
            precision=self.precision,
            variant=self.variant,
            components=dict.fromkeys(self.absent),
        )
        self.pipe: Any = self._reference.diffusers
        for name in self.methods:
            self._time(name)
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
            return self._reference.meter.count_call(name, functools.partial(inner, *args, **kwargs))

        object.__setattr__(owner, leaf, timed)

    def draw(self, request: Request) -> Drawn:
        return _drawn(self._reference, self._latents, request)


def classes(manifest: Manifest) -> tuple[str, ...]:
    """Class paths of an artifact's pipelines and modules: diffusers and transformers import theirs when first used."""
    return (*manifest.pipelines.values(), *(component.class_path for component in manifest.components))


class Latents:
    """Keeps what a pipeline's scheduler returns from each step: the one place that all loops share."""

    def __init__(self, pipe: Any) -> None:
        scheduler = getattr(pipe, "scheduler", None)
        self._schedulers = [scheduler] if callable(getattr(scheduler, "step", None)) else []
        self._latents: list[np.ndarray] = []
        self._first: float | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While it is open, a new picture's are kept."""
        from runtimes.schedulers import watching

        self._latents.clear()
        self._first = None
        with watching(self._schedulers, self._keep):
            yield

    def _keep(self, scheduler: Any, timestep: Any, result: Any) -> None:
        sample = result[0]
        if not hasattr(sample, "detach"):
            return
        if not self._latents:
            self._first = time.perf_counter()
        # A copy: some schedulers and pipelines go on in place.
        self._latents.append(sample.detach().float().cpu().numpy().copy())

    def first_after(self, start: float) -> float | None:
        """Seconds from `start`, of `time.perf_counter`, to the end of the first step; None where none was seen."""
        return None if self._first is None else self._first - start

    def stacked(self) -> np.ndarray | None:
        """float32 [steps, ...] of one picture; None where nothing was seen, or shapes varied."""
        import numpy as np

        if not self._latents or len({array.shape for array in self._latents}) > 1:
            return None
        return np.stack(self._latents)


def _drawn(pipeline: Generator, latents: Latents, request: Request) -> Drawn:
    """One picture, with its latents and its times."""
    with latents.kept():
        start = time.perf_counter()
        result = pipeline.generate(
            request.prompt,
            seed=request.seed,
            steps=request.steps,
            guidance=request.guidance,
            size=request.size,
        )
        seconds = time.perf_counter() - start
    times = result.timings
    components = {name: (component.calls, component.seconds) for name, component in times.components.items()}
    return Drawn(
        _pixels(result),
        seconds,
        times.steps,
        components,
        latents.stacked(),
        latents.first_after(start),
        None if result.calls is None else (result.calls.made, result.calls.of),
    )


def _pixels(result: Result) -> np.ndarray:
    """The first picture as uint8 [height, width, 3], or the first video as [frames, height, width, 3]."""
    import numpy as np

    if result.frames:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in result.frames[0]])
    if not result.images:
        raise LatentcError(
            "the pipeline returned no pictures, so there is nothing to compare.",
            "Bench the artifact of a whole pipeline, not of a prior.",
        )
    return np.asarray(result.images[0].convert("RGB"))


ENGINES: dict[str, Any] = {"artifact": ArtifactEngine, "pytorch": TorchEngine}


def drawing(name: str, options: str) -> Work:
    """The work of a process that draws with the engine `name`, made with `options`, a JSON object."""
    quiet_libraries()
    return functools.partial(reply, ENGINES[name](**json.loads(options)))
