"""The compile, from a model's name to a published artifact. `compile` is the whole flow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.creation_time import created_now
from artifacts.errors import LatentcError, UsageError
from artifacts.finished_parts import Part
from artifacts.hashing import BackgroundHashes
from artifacts.manifest import FileRecord, GraphRecord, Recipe
from artifacts.progress import Event, Progress, silent
from artifacts.resident import return_weights_at_once
from artifacts.verification import Artifact
from artifacts.workspace import Workspace
from compiler.capture.arguments import parse_arguments
from compiler.capture.capture import Capture, capture
from compiler.capture.infer import Method
from compiler.capture.split import NotOneGraph, Submodule
from compiler.compile_request import CHECKS, CompileRequest
from compiler.compiled_manifest import compiled_manifest
from compiler.drawn_evidence import picture_evidence, pipeline_evidence
from compiler.evidence.graph_evidence import Checker
from compiler.export.program import OneSizeOnly
from compiler.loose_files import tokenizers, write_loose_files
from compiler.lowering.background_writer import BackgroundWriter
from compiler.lowering.compile_cache import CompileCache
from compiler.lowering.graph_job import GraphJob
from compiler.model_source import ModelSource
from compiler.passes.approximations import approximations
from compiler.plan import Plan, Storage, make_plan, used_weights
from compiler.quantize import data_aware
from compiler.quantize.recipe import choice_of, planned, quantization
from compiler.road import chosen
from compiler.source import open_model
from runtimes.sessions import session_table as sessions
from runtimes.sessions.file_constants import TakesConstants
from targets import target_table as targets
from targets.options_from_text import parse
from targets.target_contract import Target


def plan(request: CompileRequest, progress: Progress = silent) -> Plan:
    """What `compile` would do, without writing anything. Raises what `compile` raises before it writes."""
    target, _ = _target(request)
    captured = _capture(open_model(request.spec), request, progress)
    return _plan(request, captured, quantization(request.quantize, captured, target))


def compile(
    request: CompileRequest,
    progress: Progress = silent,
    on_plan: Callable[[Plan], None] | None = None,
    compile_cache: CompileCache | None = None,
) -> Artifact:
    """Compiles a model and publishes the artifact.

    No step holds the model: modules are built without weights, and weights are streamed into the artifact.

    Args:
        on_plan: is told the plan before the work starts, once. What is split on the way, `progress` is told.
        compile_cache: captures and graphs of other compiles of the same model, and of this one.

    Returns:
        The artifact at `request.out`.

    Raises:
        UsageError: the request is wrong in itself.
        LatentcError: the model cannot be read or compiled, or a component is not PyTorch's; OUT does not appear.
    """
    target, options = _target(request)
    source = open_model(request.spec)
    return_weights_at_once()
    with (
        Workspace(request.out, request.force, progress) as workspace,
        BackgroundHashes(source.root, _read_files(source)) as hashes,
    ):
        ways = _Ways()
        told: Plan | None = None
        with Checker() as checker:
            while True:
                captured = _capture(source, request, progress, compile_cache, ways)
                recipe = quantization(request.quantize, captured, target)
                compile_plan = _plan(request, captured, recipe)
                if told is None and on_plan is not None:
                    on_plan(compile_plan)
                told = told or compile_plan
                files = _source_files(source, captured, hashes, progress)
                jobs = _Jobs(
                    request, target, options, source, captured, recipe, checker, progress, compile_cache
                )
                try:
                    keys = jobs.run(workspace, files)
                    break
                except NotGraphs as error:
                    for failure in error.failures:
                        progress(Event(ways.around(failure), 1, 1))
            for note in compile_plan.notes:
                if note not in told.notes:
                    progress(Event(note, 1, 1))
            graphs = {m.folder: _record(workspace, keys[m.folder]) for m in captured.methods}
            manifest = compiled_manifest(
                request, target, options, source, captured, recipe, files, graphs, ()
            )
            folders = {folder: _part(workspace, key).folder for folder, key in keys.items()}
            evidence = pipeline_evidence(request, source, captured, manifest, folders, checker, progress)
            manifest = manifest.model_copy(update={"pipeline_evidence": evidence})
            # Also where the recipe quantizes no weight after all: without pictures nothing says how good it is.
            if recipe is not None or any(graph.approximations for graph in manifest.graphs):
                pictures = picture_evidence(request, source, captured, manifest, folders, checker, progress)
                manifest = manifest.model_copy(update={"pictures": pictures})
        workspace.publish(
            keys,
            lambda records: manifest.model_copy(update={"files": records}),
            lambda folder: _write_unbuilt(source, captured, target, folder),
        )
    return _published(request.out)


@dataclass
class _Ways:
    """How a capture goes about the methods that are no single graph.

    Attributes:
        split: modules whose parts are graphs in their place, and why.
        fixed_rows: methods that have a graph for each number of rows.
    """

    split: dict[Submodule, NotOneGraph] = dataclasses.field(default_factory=dict)
    fixed_rows: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    def around(self, failure: NotOneGraph | OneSizeOnly) -> str:
        """Adds the way around `failure`, and tells it.

        Raises:
            OneSizeOnly: `failure`, where there is none.
        """
        if isinstance(failure, NotOneGraph):
            self.split[failure.part] = failure
            return f"{failure.part}: smaller graphs of its parts"
        if failure.rows is None or failure.rows in self.fixed_rows:
            raise failure
        self.fixed_rows.add(failure.rows)
        return f"{'.'.join(failure.rows)}: a graph for each number of rows"


class NotGraphs(Exception):
    """Methods of a capture are no single graphs; `failures` tells why, once for each."""

    def __init__(self, failures: Sequence[NotOneGraph | OneSizeOnly]) -> None:
        super().__init__(*failures)
        self.failures = tuple(failures)


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
    compile_cache: CompileCache | None

    def run(self, workspace: Workspace, files: Mapping[str, tuple[FileRecord, ...]]) -> dict[str, str]:
        """Makes those that the workspace does not have yet, and returns the key of each folder there.

        Raises:
            NotGraphs: some are no single graphs; the others are made.
        """
        keys: dict[str, str] = {}
        failures: list[NotOneGraph | OneSizeOnly] = []
        with BackgroundWriter(self.progress) as writer:
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
                    self.compile_cache,
                )
                key = keys[method.folder] = job.key(files)
                if workspace.finished(key) is not None:
                    self.progress(Event(f"{method.folder}: reused from an earlier run", 1, 1))
                    continue
                try:
                    with ExitStack() as part:
                        building = part.enter_context(workspace.build(key, needs=job.bytes))
                        lowered = job.lower(building)
                        writer.write(job, building, lowered, part)
                except NotOneGraph as error:  # What else is none is learned before the next capture.
                    failures.append(error)
                except OneSizeOnly as error:
                    if error.rows is None or not self.captured.one_length:
                        raise
                    failures.append(error)
        if failures:
            raise NotGraphs(failures)
        return keys


@dataclass(frozen=True)
class Opened:
    """A request's model, captured, with a job for each graph and its components' hashed weight files."""

    files: Mapping[str, tuple[FileRecord, ...]]
    jobs: tuple[GraphJob, ...]


def opened(
    request: CompileRequest, progress: Progress = silent, compile_cache: CompileCache | None = None
) -> Opened:
    """What `compile` works on, without compiling. The jobs cannot check graphs."""
    target, options = _target(request)
    source = open_model(request.spec)
    captured = _capture(source, request, progress, compile_cache)
    recipe = quantization(request.quantize, captured, target)
    jobs = [
        GraphJob(
            request, target, options, source, captured, method, recipe, Checker(), progress, compile_cache
        )
        for method in captured.methods
    ]
    with BackgroundHashes(source.root, _read_files(source)) as hashes:
        return Opened(_source_files(source, captured, hashes, progress), tuple(jobs))


def _write_unbuilt(source: ModelSource, captured: Capture, target: Target, folder: Path) -> None:
    """What lies beside the graphs: what diffusers loads, and what other loaders of the target's files read."""
    write_loose_files(source, captured, folder)
    if target.companions is not None:
        target.companions(tokenizers(source), folder)


def _published(out: Path) -> Artifact:
    from artifacts.verification import open_artifact

    return open_artifact(out, hashes=False)  # each file was hashed as it was published


def _target(request: CompileRequest) -> tuple[Target, Any]:
    """The target and its options.

    Raises:
        UsageError: an unknown target, option, check, rewrite or approximation, a precision that the target does not
            take, or a time of creation that is none.
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
    if request.adaptable:
        _require_adaptable(target)
    approximations(target, request.approximate)
    created_now()  # What the environment says of it must not end hours of work.
    availability = target.available()
    if not availability.ok:
        raise LatentcError(
            f"target '{target.name}' cannot be built here: {availability.reason}.", availability.install
        )
    return target, parse(target, request.options)


def _require_adaptable(target: Target) -> None:
    """Raises UsageError unless the constants of the target's graphs can be replaced."""
    if isinstance(sessions.get(target.name), TakesConstants):
        return
    able = [name for name in targets.names() if isinstance(sessions.get(name), TakesConstants)]
    raise UsageError(
        f"the constants of target '{target.name}' cannot be replaced when it runs "
        f"(those of {' and '.join(able)} can), so --adaptable is not for it.",
        "Merge the LoRA instead: --lora FILE",
    )


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
    compile_cache: CompileCache | None = None,
    ways: _Ways | None = None,
) -> Capture:
    ways = ways or _Ways()

    def make() -> Capture:
        overrides = parse_arguments(request.arguments)
        return capture(
            source,
            request.tasks,
            request.size,
            request.batch,
            overrides,
            progress,
            split=ways.split,
            frames=request.frames,
            tokens=request.tokens,
            fixed_rows=ways.fixed_rows,
        )

    if compile_cache is None:
        return make()
    arguments = sorted(request.arguments.items())
    options = (
        *(request.tasks, request.size, request.batch, request.frames, request.tokens),
        *(arguments, sorted(ways.split), sorted(ways.fixed_rows)),
    )
    return compile_cache.capture((source.root, repr((source.spec, options))), make)


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


def _record(workspace: Workspace, key: str) -> tuple[GraphRecord, bool]:
    """A finished part's graph, and whether it holds its component's residual tensors."""
    part = _part(workspace, key)
    return GraphRecord.model_validate(part.meta["graph"]), bool(part.meta["residual"])
