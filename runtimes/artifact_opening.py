"""From a path, or a name of the hub, to what a pipeline is made of: a verified artifact's files, and its graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from artifacts import artifact_signature, trusted_engines
from artifacts.errors import LatentcError, UsageError
from artifacts.garbage import collect_closed, rare_collections
from artifacts.hub_artifacts import located
from artifacts.manifest import Manifest
from artifacts.manifest_reading import read_manifest
from artifacts.memory import available
from artifacts.pinned import Pinned
from artifacts.progress import Progress
from artifacts.verification import Artifact, Opening
from runtimes.compute import AUTO
from runtimes.devices import RequestedDevices
from runtimes.graphs import Graphs, cache_dir
from runtimes.memory_plan import budget_of, memory_plan
from runtimes.sessions import session_table as sessions
from runtimes.sessions.session_contract import RunsCode

T = TypeVar("T")


@dataclass(frozen=True)
class OpeningOptions:
    """How an artifact is opened; `runtimes.pipeline.load` says what each means."""

    device: RequestedDevices
    task: str | None
    cache: bool
    progress: Progress
    compute: str
    trust_engines: bool
    require_signature: str | Path | None
    strict: bool
    memory: str | int | None
    max_part: str | int | None


@dataclass(frozen=True)
class OpenArtifact:
    """What a pipeline is made of.

    Attributes:
        artifact: its folder and manifest.
        task: the one of its tasks that was chosen.
        files: its files, held to what is verified.
        graphs: opens them when they are first used.
    """

    artifact: Artifact
    task: str
    files: Pinned
    graphs: Graphs


def opened(path: str | Path, options: OpeningOptions, make: Callable[[OpenArtifact], T]) -> T:
    """What `make` makes of the artifact at `path`, which is verified meanwhile.

    Files are read and hashed while libraries are imported and the pipeline is put together, of which nothing opens a
    graph; what is read of the artifact for that is compared as it is read.

    Raises:
        LatentcError, UsageError: as `runtimes.pipeline.load` raises them.
    """
    budget, max_part = budget_of(options.memory), budget_of(options.max_part)
    collect_closed()
    place = located(path, options.progress)
    if budget is None:
        budget = available()
    else:
        whole = read_manifest(Path(place).absolute())
        types = {} if options.compute == AUTO else {graph.folder: options.compute for graph in whole.graphs}
        plan = memory_plan(whole, budget, types, process=True)
        plan.check()
        budget -= plan.process
    with (
        rare_collections(),
        Opening(place, memory=cache_dir() / "verified" if options.cache else None) as opening,
    ):
        try:
            result = make(_unverified(opening.artifact, options, budget, max_part))
        except UsageError:
            raise
        except LatentcError:
            opening.finish(options.progress)  # What is wrong with the files is told first.
            raise
        opening.finish(options.progress)
    return result


def _unverified(
    artifact: Artifact, options: OpeningOptions, budget: int | None, max_part: int | None
) -> OpenArtifact:
    """What a pipeline is made of, of an artifact whose graphs need not be verified yet.

    Args:
        budget, max_part: in bytes, as `runtimes.graphs.Graphs` takes them.
    """
    manifest, files = artifact.manifest, Pinned(artifact)
    if options.require_signature is not None:
        artifact_signature.check(artifact, Path(options.require_signature))
    task = next(iter(manifest.pipelines)) if options.task is None else options.task
    check_task(task, manifest)
    factory = sessions.get(manifest.target)
    if isinstance(factory, RunsCode) and factory.runs_code:
        _check_engines(artifact, options.trust_engines or options.require_signature is not None)
    graphs = Graphs(
        files.root,
        manifest,
        options.device,
        cache_dir() if options.cache else None,
        options.progress,
        options.compute,
        files,
        options.strict,
        budget,
        max_part,
    )
    return OpenArtifact(artifact, task, files, graphs)


def check_task(task: str, manifest: Manifest) -> None:
    """Raises UsageError unless the artifact has the task."""
    if task not in manifest.pipelines:
        raise UsageError(
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
