"""The compile, from a model's name to a published artifact. `compile` is the whole flow."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError, UsageError
from artifacts.hashing import content_key, file_record
from artifacts.manifest import (
    ComponentRecord,
    DimRange,
    Evidence,
    FileRecord,
    GraphRecord,
    Manifest,
    MethodRecord,
    PictureEvidence,
    Recipe,
    Source,
    WeightRecord,
)
from artifacts.parts import Part
from artifacts.progress import Event, Progress, silent
from artifacts.verify import Artifact
from artifacts.workspace import Building, Workspace
from compiler import pictures
from compiler.capture.arguments import parse_given
from compiler.capture.capture import Capture, SizeRange, capture
from compiler.capture.infer import Method
from compiler.check import Checker, Job, memory_available, memory_needed, variant
from compiler.pictures import Evaluation, evaluation
from compiler.plan import Plan, Storage, make_plan, parameters, planned_bytes
from compiler.quantize.recipe import Choice, choice_of, planned, quantization
from compiler.source import ComponentSource, ModelSource, open_model
from targets import table as targets
from targets.base import Target

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CompileRequest", "Plan", "SizeRange", "compile", "plan"]

ONE = DimRange(min=1, max=1)

CHECKS = ("quick", "full", "none")

# Prompts that activations are measured on: all timesteps of a few pictures.
CALIBRATION = 4

# Files of a component without weights that an artifact takes over: what tokenizers, processors and schedulers are
# loaded from. Code and pickles are not among them.
_LOOSE = (".json", ".txt", ".model", ".jinja", ".tiktoken")

_PACKAGES = ("latentc", "torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class CompileRequest:
    """What to compile, for what, and where to.

    Attributes:
        model: a diffusers folder, a built-in name or a hub id.
        out: the artifact's folder; it appears when all is done.
        target: a name in `targets.table`.
        precision: of the weights: "fp32", "fp16" or "bf16".
        tasks: what the artifact does; empty for what the model's own pipeline does.
        size: declared ranges of the picture, in pixels; None for the model's own size.
        batch: declared range of pictures a call.
        check: "quick" (one shape), "full" (ends and inside of every range) or "none".
        options: the target's own, by name.
        arguments: more arguments of the pipeline's call, as texts.
        pictures: prompts whose pictures are compared with PyTorch's where weights are quantized; 0 for none.
        quantize: how weights are quantized, as `compiler.quantize.recipe` reads it; empty for not at all.
        calibration: prompts that activations are measured on; empty for the model's own.
        force: replace an artifact that is at `out`.
    """

    model: str
    out: Path
    target: str
    precision: str = "fp16"
    tasks: tuple[str, ...] = ()
    size: SizeRange | None = None
    batch: DimRange = ONE
    check: str = "quick"
    options: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    quantize: str | Recipe = ""
    pictures: int = 8
    calibration: tuple[str, ...] = ()
    force: bool = False


def plan(request: CompileRequest, progress: Progress = silent) -> Plan:
    """What `compile` would do, without writing anything. Raises what `compile` raises before it writes."""
    target, _ = _target(request)
    captured = _capture(open_model(request.model), request, progress)
    return _plan(request, captured, quantization(request.quantize, captured, target))


def compile(
    request: CompileRequest, progress: Progress = silent, on_plan: Callable[[Plan], None] | None = None
) -> Artifact:
    """Compiles a model and publishes the artifact.

    No step holds the model: modules are built without weights, and weights are streamed into the artifact.

    Args:
        on_plan: is told the plan before the work starts.

    Returns:
        The artifact at `request.out`.

    Raises:
        UsageError: the request is wrong in itself.
        LatentcError: the model cannot be read or compiled, or a component is not PyTorch's; OUT does not appear.
    """
    target, options = _target(request)
    source = open_model(request.model)
    with Workspace(request.out, request.force, progress) as workspace:
        captured = _capture(source, request, progress)
        recipe = quantization(request.quantize, captured, target)
        planned = _plan(request, captured, recipe)
        if on_plan is not None:
            on_plan(planned)
        files = _hash_sources(source, captured, progress)
        keys: dict[str, str] = {}
        with Checker() as checker:
            for method in captured.methods:
                job = _GraphJob(request, target, options, source, captured, method, recipe, checker, progress)
                key = keys[method.folder] = job.key(files)
                part = workspace.finished(key)
                if part is not None:
                    progress(Event(f"{method.folder}: reused from an earlier run", 1, 1))
                    continue
                with workspace.build(key, needs=job.bytes) as building:
                    job.build(building)
        graphs = {m.folder: _record(workspace, keys[m.folder]) for m in captured.methods}
        manifest = _manifest(request, target, options, source, captured, recipe, files, graphs, ())
        if any(record.weights for record in manifest.graphs):
            folders = {folder: _part(workspace, key).folder for folder, key in keys.items()}
            pictures = _pictures(request, source, captured, manifest, folders, progress)
            manifest = manifest.model_copy(update={"pictures": pictures})
        workspace.publish(
            keys,
            lambda records: manifest.model_copy(update={"files": records}),
            lambda folder: _loose_files(source, captured, folder),
        )
    return _published(request.out)


def _published(out: Path) -> Artifact:
    from artifacts.verify import open_artifact

    return open_artifact(out, hashes=False)  # each file was hashed as it was published


def _target(request: CompileRequest) -> tuple[Target, Any]:
    """The target and its options.

    Raises:
        UsageError: an unknown target, option or check, or a precision that the target does not take.
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
    here = target.available()
    if not here.ok:
        raise LatentcError(f"target '{target.name}' cannot be built here: {here.reason}.", here.install)
    return target, _options(target, request.options)


def _options(target: Target, texts: Mapping[str, str]) -> Any:
    fields = {f.name: f for f in dataclasses.fields(target.options)}
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in fields:
            there = ", ".join(fields) or "none"
            raise UsageError(f"target '{target.name}' has no option '{name}' (it has: {there}).")
        kind: Any = type(fields[name].default)
        try:
            values[name] = text.lower() in ("1", "true", "yes", "on") if kind is bool else kind(text)
        except ValueError:
            raise UsageError(f"--option {name}={text}: expected {kind.__name__}.") from None
    return target.options(**values)


def _plan(request: CompileRequest, captured: Capture, recipe: Recipe | None) -> Plan:
    def storage(method: Method) -> Storage:
        choice = choice_of(recipe, method)
        return Storage(choice.precision or request.precision, choice.label, planned(choice))

    return make_plan(captured, request.precision, request.out, recipe, storage)


def _capture(source: ModelSource, request: CompileRequest, progress: Progress) -> Capture:
    given = parse_given(request.arguments)
    return capture(source, request.tasks, request.size, request.batch, given, progress)


def _hash_sources(
    source: ModelSource, captured: Capture, progress: Progress
) -> dict[str, tuple[FileRecord, ...]]:
    """Component -> its weight files, hashed."""
    used = {method.component for method in captured.methods}
    return {
        c.name: tuple(file_record(source.root, file, progress) for file in c.weight_files)
        for c in source.modules
        if c.name in used
    }


@dataclass(frozen=True)
class _GraphJob:
    """One graph, from a captured method to a finished part."""

    request: CompileRequest
    target: Target
    options: Any
    source: ModelSource
    captured: Capture
    method: Method
    recipe: Recipe | None
    checker: Checker
    progress: Progress

    @property
    def component(self) -> ComponentSource:
        return next(c for c in self.source.components if c.name == self.method.component)

    @property
    def choice(self) -> Choice:
        """How the weights are quantized."""
        return choice_of(self.recipe, self.method)

    @property
    def precision(self) -> str:
        """The recipe's, or else the request's."""
        return self.choice.precision or self.request.precision

    @property
    def bytes(self) -> int:
        """A lower bound of what will be written."""
        storage = Storage(self.precision, self.choice.label, planned(self.choice))
        # Which weights are quantized is known only from the graph.
        return planned_bytes(self.method, self.captured, storage) * (9 if self.choice else 10) // 10

    def key(self, files: Mapping[str, tuple[FileRecord, ...]]) -> str:
        """What the part depends on: the source, the call, the options and the tools that shape the result."""
        method = self.method
        return content_key(
            {
                "weights": [record.sha256 for record in files[method.component]],
                "config": (self.component.folder / "config.json").read_text(encoding="utf-8"),
                "class": self.captured.classes[method.component],
                "folder": method.folder,
                "method": method.method,
                "arguments": {name: tree.model_dump() for name, tree in method.arguments.items()},
                "result": method.result.model_dump(),
                "inputs": [spec.model_dump() for spec in (*method.inputs, *method.outputs)],
                "dims": {name: span.model_dump() for name, span in method.dims.items()},
                "residuals": list(self.captured.residuals.get(method.component, ())),
                "target": self.target.name,
                "options": dataclasses.asdict(self.options),
                "precision": self.precision,
                "quantization": None if self.choice.component is None else self.choice.component.model_dump(),
                "calibration": self._calibration(),
                "check": self.request.check,
                "toolchain": _toolchain(self.target),
            }
        )

    def _calibration(self) -> Any:
        """What activations are measured with, where they are."""
        used = "int8-activations" in self.choice.schemes
        return calibration(self.request, self.source).model_dump() if used else None

    def build(self, building: Building) -> None:
        """Exports, lowers and checks the graph in ``building.folder``; its record goes into ``building.meta``."""
        from compiler.digest import graph_digest
        from compiler.plan import bytes_by_type

        name = self.method.folder
        # In the part's folder, so that it is on the same disk and goes with the work folder if we are killed.
        scratch = Path(tempfile.mkdtemp(prefix=".quantized-", dir=building.folder))
        try:
            self.progress(Event(f"{name}: exporting the graph", 0, None))
            model, kept, weights = self._graph(scratch)
            self.progress(Event(f"{name}: exporting the graph", 1, 1))
            digest, schemes = graph_digest(model), bytes_by_type(model)
            # Weights are written under the part's own name in messages.
            lowered = self.target.lower(model, self.options, building.folder, self.progress)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        shutil.copyfile(self.component.folder / "config.json", building.folder / "config.json")
        residual = self._residual(building.folder)
        evidence = self._check(building.folder / lowered.model_file, weights)
        record = GraphRecord(
            folder=name,
            model_file=f"{name}/{lowered.model_file}",
            inputs=self.method.inputs,
            outputs=self.method.outputs,
            dims=self.method.dims,
            precision=self.precision,
            kept_fp32=kept,
            parameters=parameters(self.method, self.captured),
            schemes=schemes,
            digest=digest,
            weights=weights,
            evidence=evidence,
        )
        building.meta["graph"] = record.model_dump(mode="json")
        building.meta["residual"] = residual

    def _graph(self, scratch: Path) -> tuple[ir.Model, tuple[str, ...], tuple[WeightRecord, ...]]:
        """The graph after all passes, what stayed in fp32, and the weights that were quantized into `scratch`."""
        from compiler.export.graph import export_graph
        from compiler.lowering import Lowering

        model = export_graph(self.component, self.method, self.captured.weights[self.method.component])
        return Lowering(
            target=self.target,
            options=self.options,
            source=self.source,
            captured=self.captured,
            method=self.method,
            choice=self.choice,
            precision=self.precision,
            evaluation=calibration(self.request, self.source),
            size=(self.captured.size.width.min, self.captured.size.height.min),
            scratch=scratch,
            progress=self.progress,
        ).run(model)

    def _residual(self, folder: Path) -> bool:
        """Writes the small tensors that pipelines read outside captured methods; once for each component."""
        names = self.captured.residuals.get(self.method.component, ())
        first = next(m for m in self.captured.methods if m.component == self.method.component)
        if not names or first.folder != self.method.folder:
            return False
        from safetensors.torch import save_file
        from torch._subclasses.fake_tensor import FakeTensorMode

        from compiler.capture.modules import build, real_tensor

        weights = self.captured.weights[self.method.component]
        module = build(self.component, FakeTensorMode(allow_non_fake_inputs=True))
        # The library refuses views and tensors that share memory.
        tensors = {name: real_tensor(module, weights, name).contiguous().clone() for name in names}
        save_file(tensors, folder / "residual.safetensors")
        return True

    def _check(self, model_file: Path, weights: tuple[WeightRecord, ...]) -> Evidence:
        if self.request.check == "none":
            return Evidence(check="not measured", reason="--check none")
        needed, available = memory_needed(parameters(self.method, self.captured)), memory_available()
        if needed > available:
            reason = f"it takes {needed / 2**30:.1f} GiB of memory; {available / 2**30:.1f} GiB are free"
            return Evidence(check="not measured", reason=reason)
        from compiler.capture.samples import write_points

        self.progress(Event(f"{self.method.folder}: comparing with PyTorch", 0, None))
        count = None if self.request.check == "full" else 1
        with write_points(self.method, count) as points:
            method = self.method
            job = Job(
                target=self.target.name,
                device="auto",
                precision=self.precision,
                schemes=tuple(sorted({weight.scheme.partition(":")[0] for weight in weights})),
                model_file=str(model_file),
                component=method.component,
                library=self.component.library,
                class_name=self.component.class_name,
                folder=str(self.component.folder),
                method=method.method,
                arguments=method.arguments,
                inputs=method.inputs,
                outputs=method.outputs,
                points=tuple(str(point) for point in points),
            )
            evidence = self.checker.run(job, self.request.check)
        self.progress(Event(f"{self.method.folder}: comparing with PyTorch", 1, 1))
        return evidence


def calibration(request: CompileRequest, source: ModelSource) -> Evaluation:
    """What is drawn to measure activations: the request's prompts, or the model's own."""
    found = evaluation(source.root, CALIBRATION)
    return found.model_copy(update={"prompts": request.calibration}) if request.calibration else found


def _part(workspace: Workspace, key: str) -> Part:
    part = workspace.finished(key)
    if part is None:
        raise LatentcError(
            "a finished part of the work folder has been changed or removed.", "Run compile again."
        )
    return part


def _pictures(
    request: CompileRequest,
    source: ModelSource,
    captured: Capture,
    manifest: Manifest,
    folders: Mapping[str, Path],
    progress: Progress,
) -> PictureEvidence:
    """The quantized model's pictures beside PyTorch's, from graphs that are not published yet."""
    if not request.pictures or request.check == "none":
        return PictureEvidence(reason="--check none" if request.pictures else "--pictures 0")
    needed = memory_needed(sum(graph.parameters for graph in manifest.graphs))
    available = memory_available()
    if needed > available:
        reason = f"it takes {needed / 2**30:.1f} GiB of memory; {available / 2**30:.1f} GiB are free"
        return PictureEvidence(reason=reason)
    root, moved = pictures.relocated(manifest, folders)
    variants = [found for c in source.modules if (found := variant(c.weight_files)) is not None]
    with tempfile.TemporaryDirectory(prefix="latentc-pictures-") as loose:
        _loose_files(source, captured, Path(loose))
        job = pictures.Job(
            model=str(source.root),
            variant=min(variants, default=None),
            loose=loose,
            root=str(root),
            manifest=moved,
            evaluation=pictures.evaluation(source.root, request.pictures),
            width=manifest.sizes["width"].min,
            height=manifest.sizes["height"].min,
            budget=pictures.BUDGET,
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
            weights=tuple(record for records in sources.values() for record in records),
        ),
        pipelines=captured.pipelines,
        target=target.name,
        device="auto",
        options=dataclasses.asdict(options),
        arguments=dict(request.arguments),
        precision=request.precision,
        quantization=recipe,
        sizes={"height": captured.size.height, "width": captured.size.width, "batch": captured.batch},
        components=tuple(
            ComponentRecord(
                name=name,
                class_path=captured.classes[name],
                config=f"{found[0].folder}/config.json",
                methods=tuple(
                    MethodRecord(method=m.method, arguments=m.arguments, result=m.result, graph=m.folder)
                    for m in found
                ),
                residual=f"{found[0].folder}/residual.safetensors" if graphs[found[0].folder][1] else None,
            )
            for name, found in components.items()
        ),
        graphs=tuple(record for record, _ in graphs.values()),
        files=files,
        toolchain=_toolchain(target),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _toolchain(target: Target) -> dict[str, str]:
    """Package -> version of everything that shapes an artifact."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | dict(target.toolchain())


def _loose_files(source: ModelSource, captured: Capture, folder: Path) -> None:
    """Writes what diffusers loads beside the modules: the index, schedulers, tokenizers, processors."""
    compiled = {method.component for method in captured.methods}
    index = json.loads((source.root / "model_index.json").read_text(encoding="utf-8"))
    for component in source.components:
        if component.is_module:
            if component.name not in compiled:
                index[component.name] = [None, None]
            continue
        for file in sorted(component.folder.rglob("*")):
            if file.is_file() and file.suffix in _LOOSE:
                copy = folder / component.name / file.relative_to(component.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
