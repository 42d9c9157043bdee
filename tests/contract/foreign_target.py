"""A target as another package would offer it: one file and two entry points, with a rewrite and a tolerance of its own.

Of ours it imports `latentc.contracts` alone. Its runtime is ONNX Runtime on the CPU, which it calls itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from latentc.contracts import (
    Availability,
    Built,
    Context,
    Device,
    Event,
    LatentcError,
    Lowered,
    Requirements,
    Rewrite,
    TensorSpec,
    UsageError,
)

NAME, GRAPH, WEIGHTS = "abacus", "net.onnx", "net.weights"


class LogSoftmaxPass(ir.passes.InPlacePass):
    """``Softmax(x)`` becomes ``Exp(LogSoftmax(x))``."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "Softmax" and node.domain == ""]
        for node in nodes:
            (logarithms,) = node.outputs
            exp = ir.node("Exp", [logarithms])
            exp.metadata_props.update(node.metadata_props)
            (result,) = exp.outputs
            result.dtype, result.shape = logarithms.dtype, logarithms.shape
            ir.convenience.replace_all_uses_with(logarithms, result)
            exp.replace_input_with(0, logarithms)
            node.op_type = "LogSoftmax"
            model.graph.insert_after(node, exp)
        return ir.passes.PassResult(model, bool(nodes))


LOG_SOFTMAX = Rewrite(
    "log-softmax",
    f"{__name__}:LogSoftmaxPass",
    "a softmax is computed by its logarithm",
    why="its runtime has a kernel for that one",
)


@dataclass(frozen=True)
class Options:
    """Options of the target "abacus".

    Attributes:
        label: text that the artifact keeps with each graph.
    """

    label: str = ""


class Abacus:
    """Every graph as one ONNX file with its weights beside it."""

    name = NAME
    summary = "a target of another package"
    requirements = Requirements(
        opset=(21, 23),
        precisions=frozenset({"fp32", "fp16"}),
        typed="weights",
        weight_formats=frozenset({"int8"}),
        passes=(),
        dynamic_shapes=True,
        rewrites=(LOG_SOFTMAX,),
        tolerance={"fp16": 8e-3},
    )
    options: type[Options] = Options
    rebuild = None
    companions = None
    loaders = ()

    def available(self) -> Availability:
        """Whether ONNX Runtime is here."""
        if util.find_spec("onnxruntime") is None:
            return Availability(False, "onnxruntime is not installed", "pip install onnxruntime")
        return Availability(True)

    def lower(self, graph: ir.Model, options: Options, out_dir: Path, context: Context) -> Lowered:
        """Writes ``net.onnx`` and ``net.weights``.

        Raises:
            LatentcError: they cannot be written.
        """
        task = f"{graph.graph.name}: writing weights"
        context.progress(Event(task, 0, None))
        try:
            ir.save(graph, out_dir / GRAPH, external_data=WEIGHTS)
        except OSError as error:
            raise LatentcError(f"cannot write {out_dir}: {error}.", "Choose another folder.") from error
        context.progress(Event(task, 1, 1))
        files = tuple(name for name in (GRAPH, WEIGHTS) if (out_dir / name).is_file())
        return Lowered(GRAPH, files, {"label": options.label})

    def toolchain(self) -> Mapping[str, str]:
        """Versions of what writes the files."""
        return {package: metadata.version(package) for package in ("onnx-ir", "onnxruntime")}


class AbacusSessions:
    """Opens ``net.onnx``."""

    target = NAME

    def devices(self) -> tuple[Device, ...]:
        """The CPU."""
        return (Device("cpu", "CPU", computes=("fp32",), on_host=True),)

    def lacks(self, built: Built) -> str:
        """Nothing."""
        return ""

    def open(
        self, model_file: Path, device: str, compute: str, cache_dir: Path | None, built: Built | None = None
    ) -> AbacusSession:
        """Opens one graph.

        Raises:
            UsageError: there is no such device.
            LatentcError: ONNX Runtime refused the file.
        """
        if device not in ("auto", "cpu"):
            raise UsageError(f"target '{NAME}' has no device '{device}' (there is: cpu).")
        import onnxruntime as ort

        try:
            session = ort.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise LatentcError(f"{NAME} cannot open {model_file}: {error}") from error
        return AbacusSession(session)


class AbacusSession:
    """One opened graph."""

    device = "cpu"

    def __init__(self, session: Any) -> None:
        self._session: Any = session
        self.inputs = {value.name: _spec(value) for value in session.get_inputs()}
        self.outputs = {value.name: _spec(value) for value in session.get_outputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph once.

        Raises:
            LatentcError: the session is closed.
        """
        if self._session is None:
            raise LatentcError("the session is closed.")
        return dict(zip(self.outputs, self._session.run(list(self.outputs), dict(inputs)), strict=True))

    def close(self) -> None:
        """Frees the session; twice is harmless."""
        self._session = None


def _spec(value: Any) -> TensorSpec:
    dtypes = {"tensor(float)": "float32", "tensor(double)": "float64"}
    dtype = dtypes.get(value.type) or value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(
        size if isinstance(size, int) else size or f"{value.name}_{axis}"
        for axis, size in enumerate(value.shape)
    )
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


TARGET, SESSION = Abacus(), AbacusSessions()
