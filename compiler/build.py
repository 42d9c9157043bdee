"""The compile, from a model's name to a published artifact. `compile` is the whole flow."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from artifacts import memory, strict_json
from artifacts.creation_time import created_now
from artifacts.errors import LatentcError, UsageError
from artifacts.hashing import BackgroundHashes, record_path
from artifacts.manifest import (
    ComponentRecord,
    FileRecord,
    GraphRecord,
    Manifest,
    MethodRecord,
    ModelSpec,
    PictureEvidence,
    PipelineEvidence,
    Recipe,
    Source,
)
from artifacts.parts import Part
from artifacts.progress import Event, Progress, silent
from artifacts.verify import Artifact
from artifacts.workspace import Building, Workspace
from compiler.capture.arguments import parse_given
from compiler.capture.capture import Capture, SizeRange, capture
from compiler.capture.infer import Method
from compiler.capture.split import NotOneGraph, Submodule
from compiler.evaluation import evaluation
from compiler.evidence import pictures, pipelines
from compiler.evidence.graphs import Checker, memory_needed
from compiler.lowering.job import RESIDUAL, GraphJob, Lowered, toolchain, write_residual
from compiler.lowering.reuse import Shared
from compiler.plan import Plan, Storage, make_plan, used_weights
from compiler.quantize import data_aware
from compiler.quantize.recipe import choice_of, planned, quantization
from compiler.request import CHECKS, CompileRequest
from compiler.road import chosen
from compiler.source import ModelSource, open_model
from runtimes.assemble import INDEX
from runtimes.parts import part_files
from runtimes.sessions import table as sessions
from targets import table as targets
from targets.base import Target
from targets.options import parse

__all__ = ["CompileRequest", "Plan", "SizeRange", "compile", "plan"]


def plan(request: CompileRequest, progress: Progress = silent) -> Plan:
    """What `compile` would do, without writing anything. Raises what `compile` raises before it writes."""
    target, _ = _target(request)
    captured = _capture(open_model(request.spec), request, progress)
    return _plan(request, captured, quantization(request.quantize, captured, target))


def compile(
    request: CompileRequest,
    progress: Progress = silent,
    on_plan: Callable[[Plan], None] | None = None,
    shared: Shared | None = None,
) -> Artifact:
    """Compiles a model and publishes the artifact.

    No step holds the model: modules are built without weights, and weights are streamed into the artifact.

    Args:
        on_plan: is told the plan before the work starts, once. What is split on the way, `progress` is told.
        shared: what other compiles of the same model found, and what this one finds.

    Returns:
        The artifact at `request.out`.

    Raises:
        UsageError: the request is wrong in itself.
        LatentcError: the model cannot be read or compiled, or a component is not PyTorch's; OUT does not appear.
    """
    target, options = _target(request)
    source = open_model(request.spec)
    with (
        Workspace(request.out, request.force, progress) as workspace,
        BackgroundHashes(source.root, _read_files(source)) as hashes,
    ):
        split: dict[Submodule, NotOneGraph] = {}
        told: Plan | None = None
        with Checker() as checker:
            while True:
                captured = _capture(source, request, progress, shared, split)
                recipe = quantization(request.quantize, captured, target)
                planned = _plan(request, captured, recipe)
                if told is None and on_plan is not None:
                    on_plan(planned)
                told = told or planned
                files = _source_files(source, captured, hashes, progress)
                jobs = _Jobs(request, target, options, source, captured, recipe, checker, progress, shared)
                try:
                    keys = jobs.run(workspace, files)
                    break
                except NotOneGraph as error:
                    split[error.part] = error
                    progress(Event(f"{error.part}: smaller graphs of its parts", 1, 1))
            for note in planned.notes:
                if note not in told.notes:
                    progress(Event(note, 1, 1))
            graphs = {m.folder: _record(workspace, keys[m.folder]) for m in captured.methods}
            manifest = _manifest(request, target, options, source, captured, recipe, files, graphs, ())
            folders = {folder: _part(workspace, key).folder for folder, key in keys.items()}
            evidence = _drawn(request, source, captured, manifest, folders, checker, progress)
            manifest = manifest.model_copy(update={"pipeline_evidence": evidence})
        # Also where the recipe quantizes no weight after all: without pictures nothing says how good it is.
        if recipe is not None:
            pictures = _pictures(request, source, captured, manifest, folders, progress)
            manifest = manifest.model_copy(update={"pictures": pictures})
        workspace.publish(
            keys,
            lambda records: manifest.model_copy(update={"files": records}),
            lambda folder: _loose_files(source, captured, folder),
        )
    return _published(request.out)


@dataclass(frozen=True)
class _Jobs:
    """All graphs of a compile."""

    request: CompileRequest
    target: Target
    options: Any
    source: ModelSource
    captured: Capture
    recipe: Recipe | None
    checker: Checker
    progress: Progress
    shared: Shared | None

    def run(self, workspace: Workspace, files: Mapping[str, tuple[FileRecord, ...]]) -> dict[str, str]:
        """Makes those that the workspace does not have yet, and returns the key of each folder there."""
        keys: dict[str, str] = {}
        with _Writer(self.progress) as writer:
            for method in self.captured.methods:
                job = GraphJob(
                    self.request,
                    self.target,
                    self.options,
                    self.source,
                    self.captured,
                    method,
                    self.recipe,
                    self.checker,
                    writer.report,
                    self.shared,
                )
                key = keys[method.folder] = job.key(files)
                if workspace.finished(key) is not None:
                    self.progress(Event(f"{method.folder}: reused from an earlier run", 1, 1))
                    continue
                with ExitStack() as part:
                    building = part.enter_context(workspace.build(key, needs=job.bytes))
                    lowered = job.lower(building)
                    writer.write(job, building, lowered, part)
        return keys


class _Stopped(Exception):
    """Raised in the writing thread when nobody wants its graph any more."""


class _Writer:
    """Writes, checks and hashes one graph in a thread while the next one is exported: two graphs at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stopping = False
        self._pool = ThreadPoolExecutor(1, "writing")
        self._written: Future[None] | None = None

    def write(self, job: GraphJob, building: Building, lowered: Lowered, part: ExitStack) -> None:
        """Waits for the graph before this one, and raises what it raised.

        Args:
            part: what is open for this graph; it is closed when the graph is finished.
        """
        self._wait()
        mine = part.pop_all()

        def finish() -> None:
            with mine:
                job.write(building, lowered)

        self._written = self._pool.submit(finish)

    def report(self, event: Event) -> None:
        """The jobs' progress. After an error or a Ctrl-C it raises, which ends the work wherever it is."""
        if self._stopping:
            raise _Stopped
        self._progress(event)

    def _wait(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Also after an error or a Ctrl-C: the work folder must not be left while somebody writes to it.
        self._stopping = error is not None
        self._pool.shutdown()
        if error is None:
            self._wait()


@dataclass(frozen=True)
class Opened:
    """A request's model, captured, with a job for each graph and its components' hashed weight files."""

    files: Mapping[str, tuple[FileRecord, ...]]
    jobs: tuple[GraphJob, ...]


def opened(request: CompileRequest, progress: Progress = silent, shared: Shared | None = None) -> Opened:
    """What `compile` works on, without compiling. The jobs cannot check graphs."""
    target, options = _target(request)
    source = open_model(request.spec)
    captured = _capture(source, request, progress, shared)
    recipe = quantization(request.quantize, captured, target)
    jobs = [
        GraphJob(request, target, options, source, captured, method, recipe, Checker(), progress, shared)
        for method in captured.methods
    ]
    with BackgroundHashes(source.root, _read_files(source)) as hashes:
        return Opened(_source_files(source, captured, hashes, progress), tuple(jobs))


def _published(out: Path) -> Artifact:
    from artifacts.verify import open_artifact

    return open_artifact(out, hashes=False)  # each file was hashed as it was published


def _target(request: CompileRequest) -> tuple[Target, Any]:
    """The target and its options.

    Raises:
        UsageError: an unknown target, option, check or rewrite, or a precision that the target does not take.
        LatentcError: the target's tools are not here.
    """
    target = targets.get(request.target)
    takes = sorted(target.requirements.precisions)
    if request.precision not in takes:
        raise UsageError(
            f"target '{target.name}' does not take {request.precision} (it takes: {', '.join(takes)}).",
            f"Use --precision {takes[0]}",
        )
    if request.check not in CHECKS:
        raise UsageError(f"there is no check '{request.check}' (there are: {', '.join(CHECKS)}).")
    chosen(target, request.precision, request.rewrites)
    here = target.available()
    if not here.ok:
        raise LatentcError(f"target '{target.name}' cannot be built here: {here.reason}.", here.install)
    return target, parse(target, request.options)


def _plan(request: CompileRequest, captured: Capture, recipe: Recipe | None) -> Plan:
    """What will be done.

    Raises:
        LatentcError: weights are to follow the data, and there is too little memory for that.
    """

    def storage(method: Method) -> Storage:
        choice = choice_of(recipe, method)
        return Storage(choice.precision or request.precision, choice.label, planned(choice))

    compile_plan = make_plan(captured, request.precision, request.out, recipe, storage)
    peak = compile_plan.peak_memory
    for method in captured.methods:
        if methods := choice_of(recipe, method).methods:
            sizes = [math.prod(stored.shape) for stored in used_weights(method, captured)]
            needed = data_aware.memory_needed(sum(sizes), max(sizes, default=0))
            data_aware.require(method.component, needed, methods)
            peak = max(peak, needed)
    return dataclasses.replace(compile_plan, peak_memory=peak)


def _capture(
    source: ModelSource,
    request: CompileRequest,
    progress: Progress,
    shared: Shared | None = None,
    split: Mapping[Submodule, NotOneGraph] = MappingProxyType({}),
) -> Capture:
    def make() -> Capture:
        overrides = parse_given(request.arguments)
        return capture(
            source,
            request.tasks,
            request.size,
            request.batch,
            overrides,
            progress,
            split=split,
            frames=request.frames,
            tokens=request.tokens,
        )

    if shared is None:
        return make()
    arguments = sorted(request.arguments.items())
    asked = (
        *(request.tasks, request.size, request.batch, request.frames, request.tokens),
        *(arguments, sorted(split)),
    )
    return shared.capture((source.root, repr((source.spec, asked))), make)


def _source_files(
    source: ModelSource, captured: Capture, hashes: BackgroundHashes, progress: Progress
) -> dict[str, tuple[FileRecord, ...]]:
    """Component -> its weight files, hashed."""
    used = {method.component for method in captured.methods}
    parts = [c for c in source.modules if c.name in used]
    return {
        c.name: tuple(hashes.record(file, progress) for file in (*c.weight_files, *source.added))
        for c in parts
    }


def _read_files(source: ModelSource) -> list[Path]:
    """Every file that weights are made of."""
    return [*source.added, *(file for c in source.modules for file in c.weight_files)]


def _part(workspace: Workspace, key: str) -> Part:
    part = workspace.finished(key)
    if part is None:
        raise LatentcError(
            "a finished part of the work folder has been changed or removed.", "Run compile again."
        )
    return part


def _cannot_run(manifest: Manifest) -> str:
    """Why PyTorch's pipeline and then the graphs cannot be run here; empty where they can."""
    factory = sessions.get(manifest.target)
    lacks = next(filter(None, (factory.lacks(graph.built) for graph in manifest.graphs)), "")
    if lacks:
        return f"needs {lacks}"
    short = memory.shortage(memory_needed(sum(graph.parameters for graph in manifest.graphs)))
    return short and f"it takes {short}"


def _drawn(
    request: CompileRequest,
    source: ModelSource,
    captured: Capture,
    manifest: Manifest,
    folders: Mapping[str, Path],
    checker: Checker,
    progress: Progress,
) -> tuple[PipelineEvidence, ...]:
    """A picture of each task beside PyTorch's, from graphs that are not published yet.

    Raises:
        LatentcError: one is further off than it may be, or the artifact does not draw it.
    """
    if reason := "--check none" if request.check == "none" else _cannot_run(manifest):
        return tuple(
            PipelineEvidence(task=task, check="not measured", reason=reason) for task in manifest.pipelines
        )
    root, moved = pictures.relocated(manifest, folders)
    with tempfile.TemporaryDirectory(prefix="latentc-pipeline-") as loose:
        _loose_files(source, captured, Path(loose))
        job = pipelines.Job(
            model=source.spec,
            variant=source.variant,
            left_out=tuple(p.name for p in captured.left_out if p.name not in captured.uncalled),
            loose=loose,
            root=str(root),
            manifest=moved,
            check="full" if request.check == "full" else "quick",
        )
        return pipelines.check(checker, job, progress)


def _pictures(
    request: CompileRequest,
    source: ModelSource,
    captured: Capture,
    manifest: Manifest,
    folders: Mapping[str, Path],
    progress: Progress,
) -> tuple[PictureEvidence, ...]:
    """The quantized model's pictures beside PyTorch's, from graphs that are not published yet."""
    if not request.pictures or request.check == "none":
        return (PictureEvidence(reason="--check none" if request.pictures else "--pictures 0"),)
    if reason := _cannot_run(manifest):
        return (PictureEvidence(reason=reason),)
    root, moved = pictures.relocated(manifest, folders)
    with tempfile.TemporaryDirectory(prefix="latentc-pictures-") as loose:
        _loose_files(source, captured, Path(loose))
        job = pictures.Job(
            model=source.spec,
            variant=source.variant,
            loose=loose,
            root=str(root),
            manifest=moved,
            evaluation=evaluation(source.root, request.pictures),
            width=manifest.sizes["width"].min,
            height=manifest.sizes["height"].min,
            budget=request.patience,
            references="" if request.references is None else str(request.references),
        )
        return pictures.measure(job, progress)


def _record(workspace: Workspace, key: str) -> tuple[GraphRecord, bool]:
    """A finished part's graph, and whether it holds its component's residual tensors."""
    part = _part(workspace, key)
    return GraphRecord.model_validate(part.meta["graph"]), bool(part.meta["residual"])


def _manifest(
    request: CompileRequest,
    target: Target,
    options: Any,
    source: ModelSource,
    captured: Capture,
    recipe: Recipe | None,
    sources: Mapping[str, tuple[FileRecord, ...]],
    graphs: Mapping[str, tuple[GraphRecord, bool]],
    files: tuple[FileRecord, ...],
) -> Manifest:
    components: dict[str, list[Method]] = {}
    for method in captured.methods:
        components.setdefault(method.component, []).append(method)
    return Manifest(
        source=Source(
            id=request.model,
            revision=source.revision,
            license=source.license,
            weights=tuple(dict.fromkeys(record for records in sources.values() for record in records)),
            spec=_recorded(source, sources),
        ),
        pipelines=captured.pipelines,
        target=target.name,
        device="auto",
        options=dataclasses.asdict(options),
        arguments=dict(request.arguments),
        precision=request.precision,
        quantization=recipe,
        left_out=captured.left_out,
        sizes={"height": captured.size.height, "width": captured.size.width, "batch": captured.batch}
        | ({} if captured.frames is None else {"frames": captured.frames})
        | ({} if captured.tokens is None else {"tokens": captured.tokens}),
        components=tuple(
            ComponentRecord(
                name=name,
                class_path=captured.classes[name],
                config=f"{methods[0].folder}/config.json",
                methods=tuple(
                    MethodRecord(
                        method=m.method,
                        arguments=m.arguments,
                        result=m.result,
                        graph=m.folder,
                        state=m.state,
                        other_result=m.other_result,
                    )
                    for m in methods
                ),
                residual=f"{methods[0].folder}/{RESIDUAL}" if graphs[methods[0].folder][1] else None,
            )
            for name, methods in components.items()
        )
        + tuple(
            ComponentRecord(
                name=name,
                class_path=captured.classes[name],
                config=f"{name}/config.json",
                methods=(),
                residual=f"{name}/{RESIDUAL}" if captured.residuals.get(name) else None,
            )
            for name in captured.uncalled
        ),
        graphs=tuple(record for record, _ in graphs.values()),
        files=files,
        toolchain=toolchain(target, *(choice_of(recipe, method) for method in captured.methods)),
        created=created_now(),
    )


def _recorded(source: ModelSource, sources: Mapping[str, tuple[FileRecord, ...]]) -> ModelSpec | None:
    """What the model was made of, its adapters and embeddings with their hashes; None for a folder."""
    if source.is_folder:
        return None
    hashes = {record.path: record.sha256 for records in sources.values() for record in records}

    def hashed(item: Any) -> Any:
        return item.model_copy(update={"sha256": hashes[record_path(source.root, Path(item.file))]})

    return source.spec.model_copy(
        update={
            "adapters": tuple(map(hashed, source.spec.adapters)),
            "embeddings": tuple(map(hashed, source.spec.embeddings)),
        }
    )


def _loose_files(source: ModelSource, captured: Capture, folder: Path) -> None:
    """Writes what diffusers loads beside the modules: the index, schedulers, tokenizers, processors."""
    compiled = {method.component for method in captured.methods}
    index = strict_json.loads(source.files.read(INDEX), source.files.shown(INDEX))
    for component in source.components:
        if component.is_module:
            if component.name in captured.uncalled:
                copy = folder / component.name
                copy.mkdir(parents=True, exist_ok=True)
                (copy / "config.json").write_bytes(component.config)
                write_residual(component, captured, copy)
            elif component.name not in compiled:
                index[component.name] = [None, None]
            continue
        for path, data in part_files(source.files, component.name):
            copy = folder / component.name / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
