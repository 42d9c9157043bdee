"""Sessions of DirectML: ONNX Runtime's DmlExecutionProvider, with one opened graph for each size that is asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError
from artifacts.manifest import Built, TensorSpec
from runtimes.sessions.common import check_run, choose
from runtimes.sessions.onnx_structure import check_onnx
from runtimes.sessions.onnxruntime import OrtSession, available_providers, inference_session
from runtimes.sessions.session_contract import Device
from targets.directml.file_format import FORMAT

if TYPE_CHECKING:
    import numpy as np

PROVIDER = "DmlExecutionProvider"
# The two packages have the same files: one must go before the other comes.
INSTALL = "pip uninstall -y onnxruntime && pip install onnxruntime-directml"
GPU, CPU = "directml", "cpu"
ON_CPU = "This artifact is for DirectML; it runs on the CPU now, unfused and slower than there."


class DirectMlSessions:
    """Opens the fixed graphs with DirectML, or their twin of any size with the CPU."""

    target = "directml"

    def devices(self) -> tuple[Device, ...]:
        """The GPU where the provider is here; the CPU, which runs the unfused twin, wherever onnxruntime is."""
        present = available_providers()
        if not present:
            return ()
        cpu = Device(CPU, "CPU, for checking: the unfused twin of the same weights", ON_CPU, on_host=True)
        return (Device(GPU, "GPU through DirectX 12"), cpu) if PROVIDER in present else (cpu,)

    def check_device(self, name: str) -> None:
        """Raises LatentcError where the GPU is asked for and the installed package has no provider for it."""
        devices = self.devices()
        if devices and name.lower() == GPU and GPU not in {device.name for device in devices}:
            raise LatentcError(
                f"the installed onnxruntime has no {PROVIDER}, which Windows' packages have.",
                f"On Windows: {INSTALL}   Elsewhere, to check only: --device cpu",
            )

    def lacks(self, built: Built) -> str:
        """Nothing: the twin runs everywhere."""
        return ""

    def open(
        self,
        model_file: Path,
        device: str,
        compute: str,
        cache_dir: Path | None,
        built: Built | None = None,
    ) -> OrtSession | DirectMlSession:
        """Opens one graph.

        On the GPU the fixed graphs are opened when their size is first asked for. `cache_dir` is not used: the
        provider compiles for the driver that is there, and keeps nothing.

        Raises:
            LatentcError: onnxruntime or its DirectML provider is missing, or the file was refused.
        """
        self.check_device(device)
        devices = self.devices()
        package = "onnxruntime-directml" if sys.platform == "win32" else "onnxruntime"
        name = choose(device, devices, self.target, f"pip install {package}")
        check_onnx(model_file, FORMAT)
        graphs = _graphs(model_file, built or {})
        if name == CPU:
            return OrtSession(inference_session(model_file, CPU, self.target), model_file.parent.name, CPU)
        return DirectMlSession(model_file, graphs, self.target)


class DirectMlSession:
    """The graphs of one component, each opened when a run first has its size."""

    opens_later = True
    """A run may open files: `runtimes.graphs` looks after each whether they were still those that were verified."""

    def __init__(self, model_file: Path, graphs: Mapping[str, Mapping[str, int]], target: str) -> None:
        self.device = GPU
        self._file, self._graphs, self._target = model_file, graphs, target
        self._name = model_file.parent.name
        self._sessions: dict[str, OrtSession] | None = {}
        self.inputs: Mapping[str, TensorSpec]
        self.outputs: Mapping[str, TensorSpec]
        self.inputs, self.outputs = _specs(model_file)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph of the inputs' size once; see `runtimes.sessions.session_contract.Session.run`.

        Raises:
            LatentcError: no graph was compiled for that size, or ONNX Runtime failed.
        """
        check_run(self._sessions, inputs, self.inputs, self._name)
        assert self._sessions is not None
        file = self._fitting(inputs)
        if file not in self._sessions:
            path = self._file.with_name(file)
            check_onnx(path, FORMAT)
            session = inference_session(path, GPU, self._target)
            self._sessions[file] = OrtSession(session, self._name, GPU)
        return self._sessions[file].run(inputs)

    def _fitting(self, inputs: Mapping[str, np.ndarray]) -> str:
        sizes = {
            d: size
            for name, spec in self.inputs.items()
            for d, size in zip(spec.shape, inputs[name].shape, strict=True)
            if isinstance(d, str)
        }
        for file, dims in self._graphs.items():
            if all(sizes.get(name, size) == size for name, size in dims.items()):
                return file
        requested = ", ".join(f"{name} {size}" for name, size in sizes.items())
        compiled = "; ".join(", ".join(f"{n} {s}" for n, s in dims.items()) for dims in self._graphs.values())
        raise LatentcError(
            f"{self._name} was compiled for {compiled}; asked for {requested}.",
            "Draw another size, or compile for this one: latentc compile MODEL OUT --target directml --size WxH",
        )

    def close(self) -> None:
        """Frees the sessions; twice is harmless."""
        self._sessions = None


def _graphs(model_file: Path, built: Built) -> dict[str, dict[str, int]]:
    """File name -> the sizes that it was compiled for, as the target said.

    Raises:
        LatentcError: they are not written as this version writes them, or a file is no plain name.
    """
    graphs: dict[str, dict[str, int]] = {}
    stored: Any = built.get("graphs", [])
    try:
        for row in stored:
            name = str(row["file"])
            if Path(name).name != name or name in ("", ".", "..") or "\\" in name or ":" in name:
                raise ValueError(f"'{name}' is not a plain file name")
            graphs[name] = {str(k): int(v) for k, v in row["dims"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LatentcError(
            f"{model_file.parent.name}: the manifest does not say which sizes it was compiled for ({error}).",
            "Compile the model again.",
        ) from error
    return graphs


def _specs(model_file: Path) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Inputs and outputs of the twin, whose dimensions are symbolic, read without its weights."""
    import onnx

    from runtimes.sessions.onnxruntime import TYPES

    graph = onnx.load(str(model_file), load_external_data=False).graph

    def spec(value: Any) -> TensorSpec:
        kind = value.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        shape = tuple(d.dim_param if d.HasField("dim_param") else d.dim_value for d in kind.shape.dim)
        return TensorSpec(name=value.name, dtype=TYPES.get(name, name), shape=shape)

    return {v.name: spec(v) for v in graph.input}, {v.name: spec(v) for v in graph.output}


SESSION = DirectMlSessions()
