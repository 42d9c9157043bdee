"""An artifact as a pipeline: `load` it, then call it as diffusers' own, or `generate` images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from artifacts.argument_types import typed
from artifacts.contents import Contents
from artifacts.copying import copy_artifact
from artifacts.errors import UsageError
from artifacts.manifest import Adapter, Manifest
from artifacts.progress import Progress, silent
from artifacts.verification import Artifact
from runtimes import flaws, ip_adapters, settings, spare_tokens
from runtimes.acceleration import AUTO, check_accelerate, tolerance_of, tuned_to
from runtimes.artifact_opening import OpenArtifact, OpeningOptions, check_task, opened
from runtimes.as_diffusers import AsDiffusers
from runtimes.assemble import assemble, check_components
from runtimes.changes import keep_in_place, on_the_cpu, refuse_loaders
from runtimes.compiled_method import NotCompiled
from runtimes.compute import summary
from runtimes.devices import RequestedDevices
from runtimes.forecaster import Count, Forecaster, forecasting
from runtimes.generate_options import parameters, synonym
from runtimes.generation import Generator, parts
from runtimes.graph_pool import GraphPool
from runtimes.graphs import Graphs
from runtimes.meter import Cancelled, Meter, NotFinite
from runtimes.notebook import bars_where_seen, notebook_bars
from runtimes.requested_sizes import unasked
from runtimes.result import Result
from runtimes.schedulers import schedulers_of
from runtimes.shell import build_shell, undone_on_failure
from runtimes.size_hints import next_step, refusal
from runtimes.tiles import AS_FITS, Tiling, check_tiles, parse_tile

__all__ = ["Cancelled", "Pipeline", "Result", "load"]


@typed
def load(
    path: str | Path,
    device: RequestedDevices = "auto",
    task: str | None = None,
    cache: bool = True,
    progress: Progress = silent,
    compute: str = "auto",
    trust_engines: bool = False,
    accelerate: str | float = AUTO,
    require_signature: str | Path | None = None,
    strict: bool = False,
    memory: str | int | None = None,
    tile: str | int = "auto",
    max_part: str | int | None = None,
    kind: type[Pipeline] | None = None,
) -> Pipeline:
    """Verifies the artifact at `path` and puts its pipeline together. Graphs are opened when first used.

    A file that was verified before and has not changed since is not read again, where `cache` is on. One that changes
    after `load` is an error when it is used.

    Args:
        path: the artifact's folder; or, as a text, ``owner/name[@REVISION]`` of the Hugging Face hub, where there is no
            such folder. It is fetched once for each commit, verified, and kept in the cache folder.
        device: one that `latentc targets` lists for the artifact's target, "auto" for the first that takes a graph, or
            one for each component: ``{"unet": "gpu", "vae": "cpu"}`` or "unet=gpu,vae=cpu"; the others are "auto".
        task: one of the artifact's, or None for its first.
        cache: keep compiled graphs between starts, and which files were verified, in $LATENTC_CACHE or the user's
            cache folder.
        progress: told of verifying, opening and, unless `generate` is given its own, of steps.
        compute: the type of the arithmetic, "fp32", "fp16" or "bf16"; "auto" for what the device is best at, and for
            fp32 where an artifact's weights are stored in it, or a graph was measured to fail in another.
        trust_engines: let engines of GPUs run, which are code, whoever made them. Those that this user compiled on this
            machine run without.
        accelerate: "off", "auto" for what the artifact was tuned to (off where it was not), or how far steps that are
            forecast may be off; see `Pipeline.generate`.
        require_signature: the public key (a PEM file) that the artifact must be signed with, in its `latentc.sig`.
            Engines that it covers run.
        strict: a device that refuses a component is an error. Otherwise the next of the target's devices takes it,
            which `progress` (where that is silent, a Python warning) and `Pipeline.note` tell once.
        memory: bytes that the process may take ("6G"), by what `latentc inspect --memory` tells: a graph is closed
            when another needs its memory, the least recently used first, and pictures are made in tiles where they do
            not fit whole. None: what is free, where a graph that is larger is tried nevertheless.
        tile: pictures that are decoded and encoded in overlapping tiles: "auto" for those that the graph or the memory
            does not take whole, a number of pixels for those that are larger, "off" for none.
        max_part: bytes ("1G"): larger graphs run in parts with so much of their weights, one after the other within a
            call. None: those that `memory` does not take whole.
        kind: a class of pipelines; None for `Pipeline`.

    Raises:
        LatentcError: the artifact is damaged, cannot be fetched, is not signed with the key that is required, holds
            engines that are not trusted, or needs a library or device that is not here; a graph alone is larger than
            `memory`.
        UsageError: it has no such task, component or device, the device does not have the type to compute in,
            `accelerate` or `tile` is none of these, or a tile is smaller than a graph takes.
    """
    check_accelerate(accelerate)
    tiling = parse_tile(tile)
    options = OpeningOptions(
        device=device,
        task=task,
        cache=cache,
        progress=progress,
        compute=compute,
        trust_engines=trust_engines,
        require_signature=require_signature,
        strict=strict,
        memory=memory,
        max_part=max_part,
    )

    def make(made_of: OpenArtifact) -> Pipeline:
        root, manifest = made_of.artifact.root, made_of.artifact.manifest
        cls = kind or Pipeline
        return cls(root, manifest, made_of.task, made_of.graphs, progress, made_of.files, accelerate, tiling)

    return opened(path, options, make)


class Pipeline(AsDiffusers, Generator):
    """One task of an artifact: called as diffusers' own pipeline is, or by `generate`.

    `diffusers` is that pipeline itself; its components, settings and methods are there under their own names, too
    (``pipe.vae.config``, ``pipe.to("cpu")``, ``pipe.enable_freeu(...)``, which is refused).
    Threads may share a pipeline; it makes the pictures of one call at a time.
    """

    from_pretrained = staticmethod(load)
    """`load` under the name that diffusers has for it."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        task: str,
        graphs: GraphPool,
        progress: Progress = silent,
        files: Contents | None = None,
        accelerate: str | float = AUTO,
        tiling: Tiling = AS_FITS,
    ) -> None:
        """
        Args:
            files: what the shells, schedulers and tokenizers are made of; None for the folder `root` as it is.
            accelerate, tiling: what `generate` and calls take where they are not given it.

        Raises:
            UsageError: a tile is smaller than a graph takes.
        """
        self.root = root
        self.manifest = manifest
        self.task = task
        self._graphs = graphs
        self._files = files
        self._tiling = self._usual_tiling = tiling
        source = files or root
        check_components(manifest.pipelines, task, (c.name for c in manifest.components))
        self._shells = {
            c.name: build_shell(
                *(c, source, graphs, lambda: self._meter, lambda: self._forecaster, lambda: self._tiling),
                tiler=graphs if isinstance(graphs, Graphs) else None,
            )
            for c in manifest.components
        }
        self._accelerate = accelerate
        check_tiles(tiling, manifest)
        self._forecaster: Forecaster | None = None
        pipe = assemble(source, manifest.pipelines[task], self._shells)
        for part in (pipe, *parts(pipe)):
            refuse_loaders(part, self._shells)
            keep_in_place(part)
            if any(spare_tokens.INPUT in settings.of(shell) for shell in self._shells.values()):
                learn = partial(spare_tokens.load_as_diffusers, part)
                object.__setattr__(part, "load_textual_inversion", learn)
        super().__init__(pipe, manifest.sizes, progress)

    @typed
    def with_task(self, task: str) -> Pipeline:
        """Another task of the same artifact, on the same graphs: `close` of either closes them for both.

        Raises:
            UsageError: the artifact has no such task.
        """
        check_task(task, self.manifest)
        return type(self)(
            *(self.root, self.manifest, task, self._graphs, self._progress, self._files),
            *(self._accelerate, self._usual_tiling),
        )

    @typed
    def load_textual_inversion(self, file: str | Path, token: str = "") -> str:
        """Teaches the text encoders a token from a safetensors file, where the artifact was compiled for some.

        Args:
            token: what it is called in prompts; empty for the file's own name for it.

        Returns:
            The token.

        Raises:
            LatentcError: the file is damaged, or a pickle.
            UsageError: there is no such file, it is no textual inversion of this model, the token exists, or no room
                for it is left.
        """
        path = Path(file)
        tensors = spare_tokens.read(path)
        token = token or spare_tokens.token_of(tensors, path)
        with self._lock:
            spare_tokens.load(self.diffusers, tensors, token, path.name)
        return token

    def set_ip_adapter_scale(self, *scales: Any) -> None:
        """How much is taken over of the picture that an IP-Adapter looks at, from now on.

        Args:
            scales: one for all adapters, or one for each, in what diffusers' `set_ip_adapter_scale` takes: a number, or
                numbers by block.

        Raises:
            UsageError: the artifact has no IP-Adapter, or not so many.
        """
        ip_adapters.set_strengths(self.diffusers, scales)

    def open(self) -> None:
        """Opens every graph now, rather than when it is first used.

        Raises:
            LatentcError: no such device, or the vendor refused a file.
        """
        self._graphs.open_all()

    @property
    def note(self) -> str:
        """What a user should know of what runs: the device, its types, parts that are left out; mostly nothing."""
        left_out = [f"{part.name} ({part.class_name})" for part in self.manifest.left_out]
        parts = f"the artifact does not have the model's {' and '.join(left_out)}." if left_out else ""
        return " ".join(filter(None, (self._graphs.note, parts)))

    @property
    def loras(self) -> tuple[Adapter, ...]:
        """What is in its weights: the LoRAs that were merged when it was compiled, then those that are switched on, by
        their files' names and SHA-256."""
        spec = self.manifest.source.spec
        return (*(() if spec is None else spec.adapters), *self._graphs.adapters)

    @property
    def computes(self) -> dict[str, str]:
        """Graph folder -> the type that it is computed in here ("fp32", "fp16", "bf16")."""
        return dict(self._graphs.computes)

    @property
    def device(self) -> str:
        """What it runs on, by the session's own names: "cpu", "gpu (vae_decoder: cpu)"; empty where the target has no
        device here."""
        return self._graphs.device

    @property
    def on_host(self) -> bool:
        """Whether all of its graphs are computed with the host's own processor."""
        return self._graphs.on_host

    def close(self) -> None:
        """Frees all graphs; twice is harmless.

        Calls of other threads that are under way, or wait for their turn, end in "the pipeline is closed"; the graph
        that such a call computes with is freed when it ends.
        """
        self._graphs.close()

    @typed
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

    def __call__(
        self,
        *args: Any,
        accelerate: str | float | None = None,
        tile: str | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Calls diffusers' own pipeline: what that takes, and what it returns; `accelerate` and `tile` are as of
        `generate`.

        The size, and the number of a video's frames, are the artifact's where that has only one and none is asked for.
        A progress bar is drawn on terminals and in notebooks, unless `set_progress_bar_config` says otherwise.

        Raises:
            LatentcError: a component is not compiled for what the pipeline asked of it.
        """
        with self._lock, bars_where_seen((self.diffusers, *parts(self.diffusers))):
            self._begin(None)
            self._prepare(accelerate, tile, self._guidance(args, kwargs))
            self._meter = Meter()
            return self._called(*args, **{**unasked(self._sizes, self.diffusers, args, kwargs), **kwargs})

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        ip_adapters.require_for(self.diffusers, kwargs)
        pipes = (self.diffusers, *parts(self.diffusers))
        try:
            with (
                torch.no_grad(),
                undone_on_failure(self._shells.values()),
                on_the_cpu(pipes),
                self._forecasting(),
            ):
                return self.diffusers(*args, **kwargs)
        except NotCompiled as error:
            if wrong := refusal(error.misfits, self.diffusers, self.manifest):
                raise UsageError(*wrong) from error
            error.hint = next_step(error, self.diffusers, args, kwargs, self.manifest)
            raise

    def _guidance(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The scale of guidance that a call of the pipeline asks for; None where it does not."""
        signature = parameters(self.diffusers)
        return {**dict(zip(signature, args, strict=False)), **kwargs}.get(
            synonym("guidance", signature) or ""
        )

    def _prepare(self, accelerate: str | float | None, tile: str | int | None, guidance: Any) -> None:
        tiling = self._usual_tiling if tile is None else parse_tile(tile)
        check_tiles(tiling, self.manifest)
        if isinstance(self._graphs, Graphs):
            self._graphs.check_memory()
        self._tiling = tiling
        signature = parameters(self.diffusers)
        name = synonym("guidance", signature)
        own = None if name is None else signature[name].default
        requested = self._accelerate if accelerate is None else accelerate
        tuned = tuned_to(self.manifest.forecast, guidance, own)
        self._tolerance = tolerance_of(requested, tuned.tolerance)
        self._note = tuned.note if requested == AUTO else ""
        self._count = Count() if self._tolerance else None
        if (
            self._tolerance
            and requested != AUTO
            and not schedulers_of((self.diffusers, *parts(self.diffusers)))
        ):
            raise UsageError(
                f"{type(self.diffusers).__name__} has no scheduler, so there are no steps to forecast.",
                "Leave accelerate out.",
            )

    @contextmanager
    def _forecasting(self) -> Iterator[None]:
        """One run of the pipeline whose calls may be forecast; what is remembered of it ends with it."""
        if not self._tolerance:
            yield
            return
        try:
            with forecasting((self.diffusers, *parts(self.diffusers)), self._tolerance) as policy:
                self._forecaster = policy
                yield
        finally:
            self._forecaster = None
        self._count = (self._count or Count()) + policy.count

    def _flaws(
        self, pictures: Sequence[Any], images: int, broken: Sequence[NotFinite], outputs: Mapping[str, Any]
    ) -> tuple[flaws.Flaw, ...]:
        return flaws.find(pictures, images, broken, outputs, self.manifest, self.root, self._graphs.computes)

    def _about(self) -> Mapping[str, Any]:
        return {
            "task": self.task,
            "model": self.manifest.source.id,
            "target": self.manifest.target,
            "precision": self.manifest.precision,
            "compute": summary(self._graphs.computes),
            **({"loras": [adapter.text for adapter in self.loras]} if self.loras else {}),
        }
