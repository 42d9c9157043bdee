"""An artifact as a pipeline: `load` it, then call it as diffusers' own, or `generate` images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from artifacts import artifact_signature, trusted_engines
from artifacts.contents import Contents
from artifacts.copying import copy_artifact
from artifacts.errors import UsageError
from artifacts.hub_artifacts import located
from artifacts.manifest import Manifest
from artifacts.manifest_reading import read_manifest
from artifacts.memory import available
from artifacts.pinned import Pinned
from artifacts.progress import Progress, silent
from artifacts.verification import Artifact, open_artifact
from runtimes import flaws
from runtimes.acceleration import AUTO, check_accelerate, tolerance_of
from runtimes.assemble import assemble, check_components
from runtimes.changes import refuse_loaders
from runtimes.compute import summary
from runtimes.devices import Asked
from runtimes.forecaster import Count, Forecaster
from runtimes.generate_options import parameters, synonym
from runtimes.generation import Generator, parts
from runtimes.graphs import Graphs, cache_dir
from runtimes.memory_plan import budget_of, memory_plan
from runtimes.meter import Cancelled, Meter, NotFinite
from runtimes.notebook import bars_where_seen, notebook_bars
from runtimes.result import Result
from runtimes.schedulers import schedulers_of, watching
from runtimes.sessions import session_table as sessions
from runtimes.shell import Runner, build_shell, undone_on_failure
from runtimes.tiles import AS_FITS, Tiling, check_tiles, parse_tile

__all__ = ["Cancelled", "Pipeline", "Result", "load"]


def load(
    path: str | Path,
    device: Asked = "auto",
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

    Raises:
        LatentcError: the artifact is damaged, cannot be fetched, is not signed with the key that is required, holds
            engines that are not trusted, or needs a library or device that is not here; a graph alone is larger than
            `memory`.
        UsageError: it has no such task, component or device, the device does not have the type to compute in,
            `accelerate` or `tile` is none of these, or a tile is smaller than a graph takes.
    """
    check_accelerate(accelerate)
    tiling = parse_tile(tile)
    budget, _ = budget_of(memory), budget_of(max_part)
    place = located(path, progress)
    if budget is None:
        budget = available()
    else:
        whole = read_manifest(Path(place).absolute())
        types = {} if compute == AUTO else {graph.folder: compute for graph in whole.graphs}
        plan = memory_plan(whole, budget, types, process=True)
        plan.check()
        budget -= plan.process
    artifact = open_artifact(place, progress=progress, memory=cache_dir() / "verified" if cache else None)
    manifest, files = artifact.manifest, Pinned(artifact)
    if require_signature is not None:
        artifact_signature.check(artifact, Path(require_signature))
    tasks = list(manifest.pipelines)
    chosen = tasks[0] if task is None else task
    if chosen not in manifest.pipelines:
        raise no_task(chosen, manifest)
    if getattr(sessions.get(manifest.target), "runs_code", False):
        _check_engines(artifact, trust_engines or require_signature is not None)
    graphs = Graphs(
        *(files.root, manifest, device, cache_dir() if cache else None, progress, compute, files, strict),
        *(budget, budget_of(max_part)),
    )
    return Pipeline(artifact.root, manifest, chosen, graphs, progress, files, accelerate, tiling)


def no_task(task: str, manifest: Manifest) -> UsageError:
    """What is said where an artifact is asked for a task that it does not have."""
    return UsageError(
        f"the artifact has no task '{task}' (it has: {', '.join(manifest.pipelines)}).",
        f"Compile it in: latentc compile MODEL OUT --task {task}",
    )


def _check_engines(artifact: Artifact, trusted: bool) -> None:
    """Whether the graphs' files, which are code, may be run; said at once, and not when a picture is half drawn."""
    digests = {file.path: file.sha256 for file in artifact.manifest.files}
    if trusted:
        trusted_engines.trust(digests[graph.model_file] for graph in artifact.manifest.graphs)
    for graph in artifact.manifest.graphs:
        trusted_engines.require_trusted(digests[graph.model_file], artifact.root / graph.model_file)


class Pool(Runner, Protocol):
    """What a pipeline needs of `runtimes.graphs.Graphs`."""

    @property
    def note(self) -> str:
        """What a user is told of the device, and of the types that it computes in."""

    @property
    def computes(self) -> Mapping[str, str]:
        """Graph folder -> the type that it is computed in."""

    @property
    def device(self) -> str:
        """What graphs run on, by the session's own name; empty where there is no such device."""

    def open_all(self) -> None:
        """Opens every graph."""

    def close(self) -> None:
        """Frees all graphs."""


class Pipeline(Generator):
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
        self._tiling = self._usual_tiling = tiling
        self._forecaster: Forecaster | None = None
        pipe = assemble(source, manifest.pipelines[task], self._shells)
        for part in (pipe, *parts(pipe)):
            refuse_loaders(part, self._shells)
        super().__init__(pipe, manifest.sizes, progress)

    def with_task(self, task: str) -> Pipeline:
        """Another task of the same artifact, on the same graphs: `close` of either closes them for both.

        Raises:
            UsageError: the artifact has no such task.
        """
        if task not in self.manifest.pipelines:
            raise no_task(task, self.manifest)
        return Pipeline(
            *(self.root, self.manifest, task, self._graphs, self._progress, self._files),
            *(self._accelerate, self._usual_tiling),
        )

    def open(self) -> None:
        """Opens every graph now, rather than when it is first used.

        Raises:
            LatentcError: no such device, or the vendor refused a file.
        """
        self._graphs.open_all()

    @property
    def note(self) -> str:
        """What a user should know of what runs: the device, its types, parts of the model that are left out; mostly
        nothing."""
        left_out = [f"{part.name} ({part.class_name})" for part in self.manifest.left_out]
        parts = f"the artifact does not have the model's {' and '.join(left_out)}." if left_out else ""
        return " ".join(filter(None, (self._graphs.note, parts)))

    @property
    def computes(self) -> dict[str, str]:
        """Graph folder -> the type that it is computed in here ("fp32", "fp16", "bf16")."""
        return dict(self._graphs.computes)

    @property
    def device(self) -> str:
        """What it runs on, by the session's own names: "cpu", "gpu (vae_decoder: cpu)"; empty where the target has no
        device here."""
        return self._graphs.device

    def close(self) -> None:
        """Frees all graphs; twice is harmless.

        Calls of other threads that are under way, or wait for their turn, end in "the pipeline is closed"; the graph
        that such a call computes with is freed when it ends.
        """
        self._graphs.close()

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
            self._prepare(accelerate, tile)
            self._meter = Meter()
            return self._called(*args, **{**self._unasked_size(args, kwargs), **kwargs})

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        with torch.no_grad(), undone_on_failure(self._shells.values()), self._forecasting():
            return self.diffusers(*args, **kwargs)

    def _prepare(self, accelerate: str | float | None, tile: str | int | None) -> None:
        tiling = self._usual_tiling if tile is None else parse_tile(tile)
        check_tiles(tiling, self.manifest)
        self._tiling = tiling
        tuned = self.manifest.forecast
        asked = self._accelerate if accelerate is None else accelerate
        self._tolerance = tolerance_of(asked, 0.0 if tuned is None else tuned.tolerance)
        self._count = Count() if self._tolerance else None
        if self._tolerance and asked != AUTO and not schedulers_of((self.diffusers, *parts(self.diffusers))):
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
        pipes = (self.diffusers, *parts(self.diffusers))

        def totals() -> list[int]:
            return [pipe.num_timesteps for pipe in pipes if getattr(pipe, "num_timesteps", None)]

        self._forecaster = policy = Forecaster(self._tolerance, totals)
        try:
            with watching(
                schedulers_of(pipes), lambda scheduler, time, result: policy.end_step(scheduler, time)
            ):
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
        }

    def _unasked_size(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
        """The size and frames of an artifact that has only one, by the names of parameters that a call leaves out."""
        known = parameters(self.diffusers)
        asked = {*list(known)[: len(args)], *kwargs}
        size = dict(zip(("width", "height"), self._size(None, known), strict=True))
        counter = synonym("frames", known)
        if counter is not None:
            size[counter] = self._frames(None, known)
        return {name: value for name, value in size.items() if value is not None and name not in asked}
