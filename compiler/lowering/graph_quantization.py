"""Quantization of one graph on its road to a target, with what has to be measured for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from artifacts.errors import UsageError
from artifacts.evidence_records import Calibration
from artifacts.manifest import ComponentRecord, GraphSpec, MethodRecord, WeightRecord
from artifacts.progress import Progress
from compiler.capture.capture import Capture
from compiler.capture.infer import Method
from compiler.evaluation import TASK, Evaluation
from compiler.lowering.compile_cache import CompileCache, Measured
from compiler.model_source import ModelSource
from compiler.passes import pass_table
from compiler.plan import parameters
from compiler.quantize import calibrate, data_aware, int8_ranges, replay, smoothing
from compiler.quantize.activation_runs import first_run, second_run
from compiler.quantize.apply import Choose, QuantizePass, decisions
from compiler.quantize.decide import Decision
from compiler.quantize.find import Layout
from compiler.quantize.int8_ranges import Range, Site
from compiler.quantize.recipe import Choice
from compiler.quantize.scheme import Activations
from compiler.quantize.stream import ChosenValues, QuantizedWeight, Scratch
from compiler.road import Road
from runtimes.compute import WIDE, device_of, natively
from runtimes.sessions import session_table as sessions
from targets import target_table as targets
from targets.data_aware_contract import Weight
from targets.graph.model_copy import copy_of
from targets.target_contract import Context, Target

LARGE = 256 << 20
"""Bytes of a graph's weights in fp32 from which on it is measured in what its device computes in by default, where the
others are in fp32: a range is no finer than its 255 steps, and such a graph takes four times as long in fp32."""


@dataclass(frozen=True)
class Quantized:
    """A graph with quantized weights.

    Attributes:
        records: what is told of all weights.
        quantized_weights: what those are that are in fewer bits.
        calibration: what its activations were measured on, where they were.
    """

    model: ir.Model
    records: tuple[WeightRecord, ...] = ()
    quantized_weights: tuple[QuantizedWeight, ...] = ()
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Lowering:
    """How the weights and activations of one graph are quantized.

    Attributes:
        evaluation: what is drawn to measure activations.
        size: width and height of those pictures, in pixels.
        scratch: an empty folder that must stay until the graph is written.
        form: what else the graph depends on: its rewrites and approximations.
        compile_cache: keeps what is measured.
    """

    target: Target
    options: Any
    source: ModelSource
    captured: Capture
    method: Method
    choice: Choice
    precision: str
    evaluation: Evaluation
    size: tuple[int, int]
    scratch: Path
    progress: Progress
    form: Hashable = ()
    compile_cache: CompileCache = field(default_factory=CompileCache)

    def quantize(self, model: ir.Model) -> Quantized:
        """The graph with its weights quantized into `scratch`.

        Raises:
            UsageError: activations are to be quantized, or weights by the data, where they cannot be measured.
            LatentcError: a weight is not finite, or the calibration fails.
        """
        if not self.choice:
            return Quantized(model)
        wanted = self._wanted(model)
        sites, ranges, calibration = self._activations(model, wanted)
        kept_float = {
            key: f"its input in int8 is off by {site_range.error:.1%}"
            for site, site_range in zip(sites, ranges, strict=True)
            for key in site.keys
            if site_range.error * 1000 > wanted[key].limit
        }
        choose = self._without(kept_float)
        values = self._data_aware(model, choose)
        quantize = QuantizePass(choose, Scratch(self.scratch / "weights.bin"), self.progress, values)
        model = quantize(model).model
        used = [
            None if any(key in kept_float for key in site.keys) else site_range
            for site, site_range in zip(sites, ranges, strict=True)
        ]
        if sites:
            int8_ranges.quantize(model, sites, used, self._symmetric)
        return Quantized(model, quantize.records, quantize.quantized_weights, calibration)

    # --- activations -----------------------------------------------------------------------------

    @property
    def _activation(self) -> ir.DataType:
        """The element type of quantized activations."""
        return ir.DataType[self.target.requirements.activations.upper()]

    @property
    def _symmetric(self) -> bool:
        return self._activation.is_signed()

    @property
    def _measuring(self) -> tuple[Target, Any]:
        """The target that runs graphs during the compile, and its options."""
        name = self.target.requirements.stand_in
        if not name:
            return self.target, self.options
        target = targets.get(name)
        return target, target.options()

    def _without(self, kept_float: Mapping[str, str]) -> Choose:
        def choose(key: str, layout: Layout) -> Decision | None:
            decision = self.choice.decide(key, layout)
            if decision is None or decision.activations is None or key not in kept_float:
                return decision
            return decision.fall_back(kept_float[key])

        return choose

    def _wanted(self, model: ir.Model) -> dict[str, Activations]:
        """Weights (keys) whose layers' inputs are to be quantized."""
        chosen = (
            (initializer.key, decision.activations)
            for initializer, decision in decisions(model, self.choice.decide)
        )
        return {key: wanted for key, wanted in chosen if wanted is not None}

    def _activations(
        self, model: ir.Model, wanted: Mapping[str, Activations]
    ) -> tuple[list[Site], list[Range], Calibration | None]:
        """The activations to quantize, with the ranges that a calibration measured, and what it measured them on.

        Outliers are folded into the weights behind them, where that lowers the measured error.
        """
        sites = int8_ranges.sites(model, lambda key, layout: key in wanted)
        if not sites:
            return [], [], None
        self._require_one_method()
        groups = smoothing.smoothable(
            model, [site for site in sites if all(wanted[key].smooth for key in site.keys)]
        )
        _, recorded = self._calls(model)
        first = self._shared(
            "first run",
            lambda: first_run(model, sites, groups, lambda key: wanted[key].top, self._replayed),
        )
        for group, by in zip(groups, first.factors, strict=True):
            if by is not None:
                smoothing.fold(model, group, by)
        second = self._shared(
            "second run", lambda: second_run(model, sites, first, self._symmetric, self._replayed)
        )
        record = Calibration(
            prompts=recorded.prompts,
            steps=recorded.steps,
            calls=len(first.calls),
            cut_calls=second.calls,
            compute=self._compute,
        )
        return sites, list(second.ranges), record

    def _shared(self, kind: str, make: Callable[[], Measured], form: Hashable | None = None) -> Measured:
        """What was measured once for all compiles that share a cache.

        Args:
            form: what it depends on beside the pictures; None for the graph's form and how it is quantized.
        """
        if form is None:
            chosen = None if self.choice.component is None else self.choice.component.model_dump_json()
            form = (self.form, self.precision, chosen)
        key = (kind, self.method.folder, self.evaluation.model_dump_json(), self.size, form)
        return self.compile_cache.measured(self.captured, key, make)

    @property
    def _compute(self) -> str:
        """What the graph is measured in."""
        device = device_of(sessions.get(self._measuring[0].name), "auto")
        types = (WIDE,) if device is None else natively(device, self.precision)
        large = 4 * parameters(self.method, self.captured) >= LARGE
        return WIDE if WIDE in types and not large else types[0]

    def _require_one_method(self) -> None:
        name = self.method.component
        others = [m.method for m in self.captured.methods if m.component == name]
        subject = ", ".join(self.choice.measured) or "auto"
        if TASK not in self.captured.pipelines:
            raise UsageError(f"{subject} is measured with {TASK}, which is not among the tasks.")
        if len(others) > 1:
            raise UsageError(
                f"{subject} measures components that are called in one way; '{name}' is called by {', '.join(others)}.",
                f"Use --quantize {name}=int8",
            )

    def _replayed(
        self, tapped: ir.Model, name: str, activity: str, among: Sequence[int] | None = None
    ) -> replay.Replayed:
        """See `compiler.quantize.activation_runs.Replay`."""
        content, _ = self._calls(tapped)
        with self._runnable(tapped, name) as graph:
            calls = self.scratch / f"{name}.npz"
            calls.write_bytes(content)
            try:
                job = replay.ReplayJob(
                    target=self._measuring[0].name,
                    compute=self._compute,
                    root=str(self.scratch / name),
                    component=self.method.component,
                    graph=graph,
                    taps=int8_ranges.TAPS,
                    calls=str(calls),
                    among=None if among is None else tuple(among),
                    seconds=calibrate.SECONDS,
                    result=str(self.scratch / name / "taps.npy"),
                )
                return replay.taps(job, activity, self.progress)
            finally:
                calls.unlink()

    def _calls(self, model: ir.Model) -> tuple[bytes, calibrate.Recorded]:
        """Recorded calls of the component, a file's content, and what was drawn for them; drawn once.

        Args:
            model: the float graph; not changed.
        """

        def draw() -> tuple[bytes, calibrate.Recorded]:
            with self._recorded(model, None, None) as (job, recorded):
                return Path(job.result).read_bytes(), recorded

        return self._shared("calls", draw, ())

    # --- values that follow the data -------------------------------------------------------------

    def _data_aware(self, model: ir.Model, choose: Choose) -> dict[str, Callable[[], ChosenValues]]:
        """Initializer -> what its method made of it. The files that are read lie in `scratch`."""
        wanted: dict[str, list[Weight]] = {}
        for initializer, decision in decisions(model, choose):
            # A second reader would get a weight that the first one's input is divided out of.
            if decision.method and decision.format is not None and len(initializer.value.uses()) == 1:
                block = decision.format.block or initializer.layout.inner
                weight = Weight(str(initializer.value.name), block, decision.format.zero_points)
                wanted.setdefault(decision.method, []).append(weight)
        if not wanted:
            return {}
        result: dict[str, Callable[[], ChosenValues]] = {}
        with self._recorded(model, data_aware.CALLS, data_aware.PROMPTS) as (job, _):
            graph = Path(job.root) / job.graph.model_file
            for method, weights in wanted.items():
                out = self.scratch / method
                out.mkdir()
                result |= data_aware.run(
                    graph, Path(job.result), method, weights, out, self.progress, self.method.folder
                )
        return result

    @contextmanager
    def _recorded(
        self, model: ir.Model, count: int | None, prompts: int | None
    ) -> Iterator[tuple[calibrate.CalibrationJob, calibrate.Recorded]]:
        """A job that has left the inputs of `count` calls in its result, with the float graph beside it."""
        self._require_one_method()
        few = self.evaluation.model_copy(update={"prompts": self.evaluation.prompts[:prompts]})
        with self._runnable(copy_of(model), "calls") as graph:
            job = self._job(graph).model_copy(update={"keep": count, "evaluation": few})
            yield job, calibrate.record(job, self.progress)

    def calls(self, model: ir.Model, count: int) -> list[dict[str, np.ndarray]]:
        """Inputs of a few calls of the component, spread over the timesteps, as the pipeline makes them.

        Args:
            model: the float graph; not changed.

        Raises:
            UsageError: the pipeline cannot be run with this graph alone.
            LatentcError: it does not run.
        """
        with self._recorded(model, count, prompts=2) as (job, _):
            return calibrate.read_inputs(Path(job.result))

    @contextmanager
    def _runnable(self, model: ir.Model, name: str) -> Iterator[GraphSpec]:
        """The graph in files that a session opens, in the folder `name` of `scratch`, while the block lasts."""
        folder = self.scratch / name
        folder.mkdir()
        try:
            target, options = self._measuring
            # A runtime that computes in fp32 maps such weights from the file; others it holds twice.
            wide = target.requirements.typed == "weights" and self._compute == WIDE
            stored = WIDE if wide else self.precision
            arrived = Road.to(target, stored).without_rewrites().run(model, progress=self.progress)
            context = Context(self.progress, self.method.dims, pass_table.simplify)
            written = target.lower(arrived.model, options, folder, context)
            (folder / "config.json").write_bytes(self.source.component(self.method.component).config)
            method = self.method
            yield GraphSpec(
                folder=method.folder,
                model_file=written.model_file,
                inputs=method.inputs,
                outputs=method.outputs,
                dims=method.dims,
                precision=self.precision,
                built=written.built,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _job(self, graph: GraphSpec) -> calibrate.CalibrationJob:
        """What draws with a graph of `_runnable`."""
        method, folder = self.method, self.scratch / "calls"
        record = MethodRecord(
            method=method.method,
            arguments=method.arguments,
            result=method.result,
            graph=method.folder,
            state=method.state,
        )
        return calibrate.CalibrationJob(
            model=self.source.spec,
            variant=self.source.variant,
            pipeline=self.captured.pipelines[TASK],
            target=self._measuring[0].name,
            compute=self._compute,
            root=str(folder),
            component=ComponentRecord(
                name=method.component,
                class_path=self.captured.classes[method.component],
                config="config.json",
                methods=(record,),
            ),
            graph=graph,
            evaluation=self.evaluation,
            seconds=calibrate.SECONDS,
            width=self.size[0],
            height=self.size[1],
            result=str(folder / "calls.npz"),
        )
