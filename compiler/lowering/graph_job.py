"""One graph of a compile: from a captured method to a finished part of the artifact."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.adaptable import Adaptable
from artifacts.cache import cache_dir
from artifacts.evidence_records import Calibration
from artifacts.hashing import content_key
from artifacts.manifest import DimRange, FileRecord, GraphRecord, Recipe, WeightRecord
from artifacts.progress import Event, Progress
from artifacts.workspace import Building
from compiler.capture.capture import Capture
from compiler.capture.infer import Method
from compiler.compile_request import CompileRequest
from compiler.evaluation import Evaluation, evaluation
from compiler.evidence.file_comparison import compare
from compiler.evidence.graph_evidence import Checker
from compiler.evidence.where import Locator
from compiler.lowering.compile_cache import CompileCache
from compiler.model_source import ComponentSource, ModelSource
from compiler.plan import Storage, parameters, planned_bytes
from compiler.quantize import method_table
from compiler.quantize.recipe import Choice, choice_of, planned
from compiler.road import Road, require_taken
from runtimes.sessions import session_table as sessions
from runtimes.sessions.file_constants import TakesConstants
from targets.target_contract import Context, Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from compiler.lowering.graph_quantization import Lowering, Quantized
    from compiler.quantize.stream import QuantizedWeight

# Prompts that activations are measured on: all timesteps of a few pictures.
CALIBRATION = 4

RESIDUAL = "residual.safetensors"
"""The small tensors that pipelines read of a component outside captured methods, in the folder of its first graph."""

_PACKAGES = ("latentc", "torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class Lowered:
    """A graph on its way to its target's files.

    Attributes:
        rewrites, approximations: those that changed it.
        kept: what stayed in fp32.
        weights: how each weight is quantized.
        scratch: a folder that holds quantized weights until the graph is written.
        residual: whether the part holds its component's residual tensors.
        dims: the method's, in the steps that the graph takes.
        adaptable: how its constants are made; None where that is not kept.
        calibration: what its activations were measured on; None where they were not.
    """

    model: ir.Model
    rewrites: tuple[str, ...]
    kept: tuple[str, ...]
    weights: tuple[WeightRecord, ...]
    scratch: Path
    residual: bool
    approximations: tuple[str, ...]
    dims: Mapping[str, DimRange]
    adaptable: Adaptable | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class GraphJob:
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
    compile_cache: CompileCache | None = None

    @property
    def component(self) -> ComponentSource:
        return self.source.component(self.method.component)

    @property
    def choice(self) -> Choice:
        """How the weights are quantized."""
        return choice_of(self.recipe, self.method)

    @property
    def precision(self) -> str:
        """The recipe's, or else the request's."""
        return self.choice.precision or self.request.precision

    @property
    def road(self) -> Road:
        """What the graph goes through on its way to the target."""
        return Road.to(
            self.target,
            self.precision,
            self.request.rewrites,
            self.choice.compressed,
            self.request.approximate,
        )

    @property
    def largest(self) -> dict[str, int]:
        """Symbolic dimension -> its largest declared size."""
        return {name: span.max for name, span in self.method.dims.items()}

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
                "spec": None if self.source.is_folder else self.source.spec.model_dump(),
                "config": self.component.config.decode(),
                "class": self.captured.classes[method.component],
                "folder": method.folder,
                "method": method.method,
                "arguments": {name: tree.model_dump() for name, tree in method.arguments.items()},
                "result": method.result.model_dump(),
                "state": {path: tree.model_dump() for path, tree in method.state.items()},
                "settings": {name: list(paths) for name, paths in method.settings.items()},
                "inputs": [spec.model_dump() for spec in (*method.inputs, *method.outputs)],
                "dims": {name: span.model_dump() for name, span in method.dims.items()},
                "residuals": list(self.captured.residuals.get(method.component, ())),
                "target": self.target.name,
                "options": dataclasses.asdict(self.options),
                "precision": self.precision,
                "rewrites": [rewrite.name for rewrite in self.road.rewrites],
                "approximations": [approximation.name for approximation in self.road.approximations],
                "quantization": None if self.choice.component is None else self.choice.component.model_dump(),
                "calibration": self._calibration(),
                "check": self.request.check,
                "adaptable": self.request.adaptable,
                "tolerance": dict(self.target.requirements.tolerance),
                "toolchain": toolchain(self.target, self.choice),
            }
        )

    def _calibration(self) -> Any:
        """What activations are measured with, where they are, and what the data is that weights follow."""
        used = self.choice.measured
        return calibration(self.request, self.source).model_dump() if used else None

    def lower(self, building: Building) -> Lowered:
        """Exports the graph and gives it the target's form, weights still on disk."""
        name = self.method.folder
        # In the part's folder, so that it is on the same disk and goes with the work folder if we are killed.
        scratch = Path(tempfile.mkdtemp(prefix=".quantized-", dir=building.folder))
        self.progress(Event(f"{name}: exporting the graph", 0, None))
        graphs: list[Quantized] = []

        def quantize(model: ir.Model) -> ir.Model:
            graphs.append(self.lowering(scratch, self.choice).quantize(model))
            return graphs[-1].model

        from compiler.export.graph_export import STEPS

        exported = self.exported()
        steps = exported.graph.meta[STEPS]
        arrived = self.road.run(exported, quantize, self.progress, largest=self.largest)
        (quantized,) = graphs
        require_taken(self.target, arrived.model, name)
        self.progress(Event(f"{name}: exporting the graph", 1, 1))
        residual = self._residual(building.folder)
        kept_for_adapters = None
        if self.request.adaptable:
            kept_for_adapters = self._adaptable(arrived.model, quantized.quantized_weights, building.folder)
        return Lowered(
            arrived.model,
            arrived.rewrites,
            arrived.kept,
            quantized.records,
            scratch,
            residual,
            arrived.approximations,
            {
                dim: span.model_copy(update={"step": steps.get(dim, 1)})
                for dim, span in self.method.dims.items()
            },
            kept_for_adapters,
            quantized.calibration,
        )

    def _adaptable(
        self, model: ir.Model, in_fewer_bits: Sequence[QuantizedWeight], folder: Path
    ) -> Adaptable:
        """Writes how the graph's constants are made, before anything forgets it."""
        from compiler.adaptable.constant_origins import describe, write

        origins = self.captured.weights[self.method.component]
        adaptable = describe(model, in_fewer_bits, origins, self.method.used)
        write(folder, adaptable, origins, self.precision)
        return adaptable

    def write(self, building: Building, lowered: Lowered) -> None:
        """Writes and checks the graph in ``building.folder``; its record goes into ``building.meta``."""
        from compiler.digest import graph_digest
        from compiler.passes.pass_table import simplify
        from compiler.plan import bytes_by_type

        name = self.method.folder
        digest, schemes = graph_digest(lowered.model), bytes_by_type(lowered.model)
        # Weights are written under the part's own name in messages.
        context = Context(self.progress, self.method.dims, simplify, cache_dir())
        written = self.target.lower(lowered.model, self.options, building.folder, context)
        shutil.rmtree(lowered.scratch, ignore_errors=True)
        if lowered.adaptable is not None:
            self._require_there(lowered.adaptable, building.folder / written.model_file)
        (building.folder / "config.json").write_bytes(self.component.config)
        evidence = compare(
            self.checker,
            self.source,
            self.method,
            building.folder / written.model_file,
            target=self.target.name,
            tolerance=self.target.requirements.tolerance,
            precision=self.precision,
            weights=lowered.weights,
            approximations=lowered.approximations,
            built=written.built,
            parameters=parameters(self.method, self.captured),
            check=self.request.check,
            progress=self.progress,
            locator=Locator(self.exported, self.road, self.progress, self.largest),
        )
        record = GraphRecord(
            folder=name,
            model_file=f"{name}/{written.model_file}",
            inputs=self.method.inputs,
            outputs=self.method.outputs,
            dims=dict(lowered.dims),
            precision=self.precision,
            rewrites=lowered.rewrites,
            approximations=lowered.approximations,
            kept_fp32=lowered.kept,
            parameters=parameters(self.method, self.captured),
            schemes=schemes,
            digest=digest,
            weights=lowered.weights,
            calibration=lowered.calibration,
            built=written.built,
            evidence=evidence,
        )
        building.meta["graph"] = record.model_dump(mode="json")
        building.meta["residual"] = lowered.residual

    def _require_there(self, adaptable: Adaptable, model_file: Path) -> None:
        from compiler.adaptable.constant_origins import require_there

        factory = sessions.get(self.target.name)
        assert isinstance(factory, TakesConstants)  # or the request had been refused
        stored = factory.constants(model_file)
        require_there(adaptable, stored, self.method.folder, self.target.name)

    def exported(self) -> ir.Model:
        """The graph in fp32, weights still on disk."""
        from compiler.export.graph_export import export_graph

        def export() -> ir.Model:
            weights = self.captured.weights[self.method.component]
            return export_graph(self.component, self.method, weights)

        return (
            export()
            if self.compile_cache is None
            else self.compile_cache.graph(self.captured, self.method.folder, export)
        )

    def lowering(self, scratch: Path, choice: Choice) -> Lowering:
        """The graph's way to its target.

        Args:
            scratch: an empty folder that must stay until the graph is written.
        """
        from compiler.lowering.graph_quantization import Lowering

        return Lowering(
            target=self.target,
            options=self.options,
            source=self.source,
            captured=self.captured,
            method=self.method,
            choice=choice,
            precision=self.precision,
            evaluation=calibration(self.request, self.source),
            size=(self.captured.size.width.min, self.captured.size.height.min),
            scratch=scratch,
            progress=self.progress,
            form=(self.request.rewrites, self.request.approximate),
            compile_cache=self.compile_cache or CompileCache(),
        )

    def _residual(self, folder: Path) -> bool:
        """Writes the small tensors that pipelines read outside captured methods; once for each component."""
        first = next(m for m in self.captured.methods if m.component == self.method.component)
        return first.folder == self.method.folder and write_residual(self.component, self.captured, folder)


def write_residual(component: ComponentSource, captured: Capture, folder: Path) -> bool:
    """Writes what pipelines read of a component outside captured methods; False where that is nothing."""
    names = captured.residuals.get(component.name, ())
    if not names:
        return False
    from safetensors.torch import save_file
    from torch._subclasses.fake_tensor import FakeTensorMode

    from compiler.capture.weightless_modules import bind, build, real_tensor

    module = build(component, FakeTensorMode(allow_non_fake_inputs=True))
    weights = captured.weights.get(component.name) or bind(module, component)
    # The library refuses views and tensors that share memory.
    tensors = {name: real_tensor(module, weights, name).contiguous().clone() for name in names}
    save_file(tensors, folder / RESIDUAL)
    return True


def calibration(request: CompileRequest, source: ModelSource) -> Evaluation:
    """What is drawn to measure activations: the request's prompts, or the model's own."""
    settings = evaluation(source.root, CALIBRATION)
    return settings.model_copy(update={"prompts": request.calibration}) if request.calibration else settings


def toolchain(target: Target, *choices: Choice) -> dict[str, str]:
    """Package -> version of everything that shapes an artifact whose graphs are quantized by `choices`."""
    versions = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    for name in sorted({name for choice in choices for name in choice.methods}):
        versions |= method_table.get(name).toolchain()
    return versions | dict(target.toolchain())
