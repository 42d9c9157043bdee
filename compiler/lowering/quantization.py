"""Quantization of one graph on its road to a target, with what has to be measured for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from artifacts.errors import UsageError
from artifacts.manifest import ComponentRecord, Evidence, GraphRecord, MethodRecord, WeightRecord
from artifacts.progress import Progress
from compiler.capture.capture import Capture
from compiler.capture.infer import Method
from compiler.evaluation import TASK, Evaluation
from compiler.passes import table
from compiler.quantize import activations, calibrate, data_aware, smoothing
from compiler.quantize.activations import Range, Site
from compiler.quantize.apply import QuantizePass, decisions
from compiler.quantize.decide import Decision
from compiler.quantize.find import Layout
from compiler.quantize.recipe import Choice
from compiler.quantize.stream import Given, Scratch
from compiler.quantize.table import options as scheme_options
from compiler.road import Road
from compiler.source import ModelSource
from targets import table as targets
from targets.base import Context, Target
from targets.openvino.nncf import Weight

ACTIVATIONS = "int8-activations"


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

    def quantize(self, model: ir.Model) -> tuple[ir.Model, tuple[WeightRecord, ...]]:
        """The graph, and the weights that were quantized into `scratch`.

        Raises:
            UsageError: activations are to be quantized, or weights by the data, where they cannot be measured.
            LatentcError: a weight is not finite, or the calibration fails.
        """
        records: tuple[WeightRecord, ...] = ()
        if self.choice:
            found, ranges = self._activations(model)
            kept_float = {
                key: f"int8 weights only: its input in int8 is off by {known.error:.1%}"
                for site, known in zip(found, ranges, strict=True)
                for key in site.keys
                if known.error * 1000 > self._limit(key)
            }
            choose = self._without(kept_float)
            given = self._data_aware(model, choose)
            quantize = QuantizePass(choose, Scratch(self.scratch / "weights.bin"), self.progress, given)
            model, records = quantize(model).model, quantize.records
            used = [
                None if any(key in kept_float for key in site.keys) else known
                for site, known in zip(found, ranges, strict=True)
            ]
            activations.quantize(model, found, used, self._symmetric)
        return model, records

    # --- activations -----------------------------------------------------------------------------

    @property
    def _symmetric(self) -> bool:
        return self.target.requirements.activations == "int8"

    @property
    def _measuring(self) -> tuple[Target, Any]:
        """The target that runs graphs during the compile, and its options."""
        name = self.target.requirements.stand_in
        if not name:
            return self.target, self.options
        target = targets.get(name)
        return target, target.options()

    def _limit(self, key: str) -> int:
        options = self._options_of(key)
        return 0 if options is None else int(options.limit)

    def _smoothed(self, site: Site) -> bool:
        return all(options is not None and options.smooth for options in map(self._options_of, site.keys))

    def _options_of(self, key: str) -> Any:
        """The options of the weight's scheme; None where it is not quantized."""
        decision = self.choice.decide(key, Layout("linear", (1024, 1024), 0))
        return None if decision is None else decision.options

    def _without(self, kept_float: dict[str, str]) -> Any:
        def choose(key: str, layout: Layout) -> Decision | None:
            if key in kept_float:
                return Decision("int8", scheme_options("int8", {}), kept_float[key])
            return self.choice.decide(key, layout)

        return choose

    def _activations(self, model: ir.Model) -> tuple[list[Site], list[Range]]:
        """The activations to quantize, with the ranges that a calibration found."""
        wanted = {f.key for f, made in decisions(model, self.choice.decide) if made.scheme == ACTIVATIONS}
        found = activations.sites(model, lambda key, layout: key in wanted)
        if not found:
            return [], []
        self._require_one_method()
        self._smooth(model, found)
        first = self._taps(model, found, None, "first")
        ranges = activations.first_ranges(first, self._symmetric)
        hard = activations.outliers(ranges)
        if hard:
            some = [found[i] for i in hard]
            second = self._taps(model, some, [ranges[i] for i in hard], "second")
            columns = [3 * i + k for i in hard for k in range(3)]
            better = activations.second_ranges([ranges[i] for i in hard], first[:, columns], second)
            for i, known in zip(hard, better, strict=True):
                ranges[i] = known
        return found, ranges

    def _require_one_method(self) -> None:
        name = self.method.component
        others = [m.method for m in self.captured.methods if m.component == name]
        what = f"{ACTIVATIONS}, auto and int4 with a method"
        if TASK not in self.captured.pipelines:
            raise UsageError(f"{what} are measured with {TASK}, which is not among the tasks.")
        if len(others) > 1:
            raise UsageError(
                f"{what} measure components that are called in one way; '{name}' is called by {', '.join(others)}.",
                f"Use --quantize {name}=int8",
            )

    def _taps(
        self, model: ir.Model, found: Sequence[Site], ranges: Sequence[Range] | None, name: str
    ) -> np.ndarray:
        """Runs the pipeline with the float graph, tapped; float32 [calls, taps]."""
        return self._measured(activations.tap(model, found, ranges), name)

    def _smooth(self, model: ir.Model, found: Sequence[Site]) -> None:
        """Folds outliers of activations into the weights behind them, where that lowers the measured error."""
        smoothable = smoothing.smoothable(model, [site for site in found if self._smoothed(site)])
        if not smoothable:
            return
        taps = self._measured(smoothing.tap(model, smoothable), "channels")
        for one, known in zip(smoothable, smoothing.channels(smoothable, taps), strict=True):
            by = smoothing.factors(one, known, 2 ** (self._options_of(one.weights[0].key).bits - 1) - 1)
            if by is not None:
                smoothing.fold(model, one, by)

    def _measured(self, tapped: ir.Model, name: str) -> np.ndarray:
        with self._runnable(tapped, name) as job:
            return calibrate.taps(job.model_copy(update={"taps": activations.TAPS}), self.progress)

    # --- values that follow the data -------------------------------------------------------------

    def _data_aware(self, model: ir.Model, choose: Any) -> dict[str, Callable[[], Given]]:
        """Initializer -> what its method made of it. The files that are read lie in `scratch`."""
        wanted: dict[str, list[Weight]] = {}
        for found, made in decisions(model, choose):
            # A second reader would get a weight that the first one's input is divided out of.
            if made.method and len(found.value.uses()) == 1:
                weight = Weight(str(found.value.name), made.options.group, made.options.asymmetric)
                wanted.setdefault(made.method, []).append(weight)
        if not wanted:
            return {}
        result: dict[str, Callable[[], Given]] = {}
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
    def _recorded(self, model: ir.Model, count: int, prompts: int) -> Iterator[calibrate.Job]:
        """A job that has left the inputs of `count` calls in its result, with the float graph beside it."""
        self._require_one_method()
        few = self.evaluation.model_copy(update={"prompts": self.evaluation.prompts[:prompts]})
        with self._runnable(model.clone(), "calls") as job:
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
    def _runnable(self, model: ir.Model, name: str) -> Iterator[calibrate.Job]:
        """The graph in files that a session opens, for as long as the block lasts."""
        folder = self.scratch / name
        folder.mkdir()
        try:
            target, options = self._measuring
            # A runtime that computes in fp32 maps such weights from the file; others it holds twice.
            stored = "fp32" if target.requirements.typed == "weights" else self.precision
            arrived = Road.to(target, stored).without_rewrites().run(model, progress=self.progress)
            context = Context(self.progress, self.method.dims, table.simplify)
            written = target.lower(arrived.model, options, folder, context)
            (folder / "config.json").write_bytes(self.source.component(self.method.component).config)
            yield self._job(folder, written.model_file)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _job(self, folder: Path, model_file: str) -> calibrate.Job:
        method = self.method
        record = MethodRecord(
            method=method.method,
            arguments=method.arguments,
            result=method.result,
            graph=method.folder,
            state=method.state,
        )
        return calibrate.Job(
            model=str(self.source.root),
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
            graph=GraphRecord(
                folder=method.folder,
                model_file=model_file,
                inputs=method.inputs,
                outputs=method.outputs,
                dims=method.dims,
                precision=self.precision,
                parameters=0,
                schemes={},
                digest="",
                evidence=(Evidence(check="not measured"),),
            ),
            evaluation=self.evaluation,
            width=self.size[0],
            height=self.size[1],
            result=str(folder / "result.npz"),
        )
