"""Quantization of one graph on its road to a target, with what has to be measured for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from artifacts.errors import UsageError
from artifacts.manifest import Built, ComponentRecord, GraphSpec, MethodRecord, WeightRecord
from artifacts.progress import Progress
from compiler.capture.capture import Capture
from compiler.capture.infer import Method
from compiler.evaluation import TASK, Evaluation
from compiler.model_source import ModelSource
from compiler.passes import pass_table
from compiler.quantize import calibrate, data_aware, int8_ranges, smoothing
from compiler.quantize.apply import Choose, QuantizePass, decisions
from compiler.quantize.decide import Decision
from compiler.quantize.find import Layout
from compiler.quantize.int8_ranges import Range, Site
from compiler.quantize.recipe import Choice
from compiler.quantize.scheme import Activations
from compiler.quantize.stream import ChosenValues, QuantizedWeight, Scratch
from compiler.road import Road
from targets import target_table as targets
from targets.graph.model_copy import copy_of
from targets.openvino.nncf import Weight
from targets.target_contract import Context, Target


@dataclass(frozen=True)
class Lowering:
    """How the weights and activations of one graph are quantized.

    Attributes:
        evaluation: what is drawn to measure activations.
        size: width and height of those pictures, in pixels.
        scratch: an empty folder that must stay until the graph is written.
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

    def quantize(
        self, model: ir.Model
    ) -> tuple[ir.Model, tuple[WeightRecord, ...], tuple[QuantizedWeight, ...]]:
        """The graph, and the weights that were quantized into `scratch`: what is told of all, and what those are that
        are in fewer bits.

        Raises:
            UsageError: activations are to be quantized, or weights by the data, where they cannot be measured.
            LatentcError: a weight is not finite, or the calibration fails.
        """
        records: tuple[WeightRecord, ...] = ()
        made: tuple[QuantizedWeight, ...] = ()
        if self.choice:
            wanted = self._wanted(model)
            sites, ranges = self._activations(model, wanted)
            kept_float = {
                key: f"its input in int8 is off by {known.error:.1%}"
                for site, known in zip(sites, ranges, strict=True)
                for key in site.keys
                if known.error * 1000 > wanted[key].limit
            }
            choose = self._without(kept_float)
            values = self._data_aware(model, choose)
            quantize = QuantizePass(choose, Scratch(self.scratch / "weights.bin"), self.progress, values)
            model, records, made = quantize(model).model, quantize.records, quantize.made
            used = [
                None if any(key in kept_float for key in site.keys) else known
                for site, known in zip(sites, ranges, strict=True)
            ]
            if sites:
                int8_ranges.quantize(model, sites, used, self._symmetric)
        return model, records, made

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
            made = self.choice.decide(key, layout)
            if made is None or made.activations is None or key not in kept_float:
                return made
            return made.fall_back(kept_float[key])

        return choose

    def _wanted(self, model: ir.Model) -> dict[str, Activations]:
        """Weights (keys) whose layers' inputs are to be quantized."""
        chosen = (
            (initializer.key, made.activations) for initializer, made in decisions(model, self.choice.decide)
        )
        return {key: wanted for key, wanted in chosen if wanted is not None}

    def _activations(
        self, model: ir.Model, wanted: Mapping[str, Activations]
    ) -> tuple[list[Site], list[Range]]:
        """The activations to quantize, with the ranges that a calibration found."""
        sites = int8_ranges.sites(model, lambda key, layout: key in wanted)
        if not sites:
            return [], []
        self._require_one_method()
        self._smooth(model, sites, wanted)
        first = self._taps(model, sites, None, "first")
        ranges = int8_ranges.first_ranges(first, self._symmetric)
        hard = int8_ranges.outliers(ranges)
        if hard:
            some = [sites[i] for i in hard]
            second = self._taps(model, some, [ranges[i] for i in hard], "second")
            columns = [3 * i + k for i in hard for k in range(3)]
            better = int8_ranges.second_ranges([ranges[i] for i in hard], first[:, columns], second)
            for i, known in zip(hard, better, strict=True):
                ranges[i] = known
        return sites, ranges

    def _require_one_method(self) -> None:
        name = self.method.component
        others = [m.method for m in self.captured.methods if m.component == name]
        what = ", ".join(self.choice.measured) or "auto"
        if TASK not in self.captured.pipelines:
            raise UsageError(f"{what} is measured with {TASK}, which is not among the tasks.")
        if len(others) > 1:
            raise UsageError(
                f"{what} measures components that are called in one way; '{name}' is called by {', '.join(others)}.",
                f"Use --quantize {name}=int8",
            )

    def _taps(
        self, model: ir.Model, sites: Sequence[Site], ranges: Sequence[Range] | None, name: str
    ) -> np.ndarray:
        """Runs the pipeline with the float graph, tapped; float32 [calls, taps]."""
        return self._measured(int8_ranges.tap(model, sites, ranges), name)

    def _smooth(self, model: ir.Model, sites: Sequence[Site], wanted: Mapping[str, Activations]) -> None:
        """Folds outliers of activations into the weights behind them, where that lowers the measured error."""
        some = [site for site in sites if all(wanted[key].smooth for key in site.keys)]
        smoothable = smoothing.smoothable(model, some)
        if not smoothable:
            return
        taps = self._measured(smoothing.tap(model, smoothable), "channels")
        for group, known in zip(smoothable, smoothing.channels(smoothable, taps), strict=True):
            by = smoothing.factors(group, known, wanted[group.weights[0].key].top)
            if by is not None:
                smoothing.fold(model, group, by)

    def _measured(self, tapped: ir.Model, name: str) -> np.ndarray:
        with self._runnable(tapped, name) as job:
            return calibrate.taps(job.model_copy(update={"taps": int8_ranges.TAPS}), self.progress)

    # --- values that follow the data -------------------------------------------------------------

    def _data_aware(self, model: ir.Model, choose: Choose) -> dict[str, Callable[[], ChosenValues]]:
        """Initializer -> what its method made of it. The files that are read lie in `scratch`."""
        wanted: dict[str, list[Weight]] = {}
        for initializer, made in decisions(model, choose):
            # A second reader would get a weight that the first one's input is divided out of.
            if made.method and made.format is not None and len(initializer.value.uses()) == 1:
                block = made.format.block or initializer.layout.inner
                weight = Weight(str(initializer.value.name), block, made.format.zero_points)
                wanted.setdefault(made.method, []).append(weight)
        if not wanted:
            return {}
        result: dict[str, Callable[[], ChosenValues]] = {}
        with self._recorded(model, data_aware.CALLS, data_aware.PROMPTS) as job:
            graph = Path(job.root) / job.graph.model_file
            for method, weights in wanted.items():
                out = self.scratch / method
                out.mkdir()
                result |= data_aware.run(
                    graph, Path(job.result), method, weights, out, self.progress, self.method.folder
                )
        return result

    @contextmanager
    def _recorded(self, model: ir.Model, count: int, prompts: int) -> Iterator[calibrate.CalibrationJob]:
        """A job that has left the inputs of `count` calls in its result, with the float graph beside it."""
        self._require_one_method()
        few = self.evaluation.model_copy(update={"prompts": self.evaluation.prompts[:prompts]})
        with self._runnable(copy_of(model), "calls") as job:
            job = job.model_copy(update={"keep": count, "evaluation": few})
            calibrate.record(job, self.progress)
            yield job

    def calls(self, model: ir.Model, count: int) -> list[dict[str, np.ndarray]]:
        """Inputs of a few calls of the component, spread over the timesteps, as the pipeline makes them.

        Args:
            model: the float graph; not changed.

        Raises:
            UsageError: the pipeline cannot be run with this graph alone.
            LatentcError: it does not run.
        """
        with self._recorded(model, count, prompts=2) as job:
            return calibrate.read_inputs(Path(job.result))

    @contextmanager
    def _runnable(self, model: ir.Model, name: str) -> Iterator[calibrate.CalibrationJob]:
        """The graph in files that a session opens, for as long as the block lasts."""
        folder = self.scratch / name
        folder.mkdir()
        try:
            target, options = self._measuring
            # A runtime that computes in fp32 maps such weights from the file; others it holds twice.
            stored = "fp32" if target.requirements.typed == "weights" else self.precision
            arrived = Road.to(target, stored).without_rewrites().run(model, progress=self.progress)
            context = Context(self.progress, self.method.dims, pass_table.simplify)
            written = target.lower(arrived.model, options, folder, context)
            (folder / "config.json").write_bytes(self.source.component(self.method.component).config)
            yield self._job(folder, written.model_file, written.built)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _job(self, folder: Path, model_file: str, built: Built) -> calibrate.CalibrationJob:
        method = self.method
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
            root=str(folder),
            component=ComponentRecord(
                name=method.component,
                class_path=self.captured.classes[method.component],
                config="config.json",
                methods=(record,),
            ),
            graph=GraphSpec(
                folder=method.folder,
                model_file=model_file,
                inputs=method.inputs,
                outputs=method.outputs,
                dims=method.dims,
                precision=self.precision,
                built=built,
            ),
            evaluation=self.evaluation,
            width=self.size[0],
            height=self.size[1],
            result=str(folder / "result.npz"),
        )
