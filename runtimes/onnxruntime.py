"""Sessions of ONNX Runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.manifest import Built, TensorSpec
from runtimes.base import Device
from runtimes.common import check_inputs, choose, closed, opening, running, threads
from runtimes.containment import check_external_data

if TYPE_CHECKING:
    import numpy as np

INSTALL = "pip install onnxruntime"

# Execution provider -> the device's name here, in order of preference for "auto". Providers that are not
# listed (Azure sends the graph to a service) are never used.
PROVIDERS = {
    "CUDAExecutionProvider": ("cuda", "NVIDIA GPU (CUDA)"),
    "ROCMExecutionProvider": ("rocm", "AMD GPU (ROCm)"),
    "MIGraphXExecutionProvider": ("migraphx", "AMD GPU (MIGraphX)"),
    "DmlExecutionProvider": ("directml", "GPU through DirectX 12"),
    "CoreMLExecutionProvider": ("coreml", "Apple CoreML"),
    "CPUExecutionProvider": ("cpu", "CPU"),
}
# CoreML compiles graphs of dynamic shapes poorly and in fp16; it is there for who asks.
NEVER_AUTO = frozenset({"coreml"})
BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16

# ONNX Runtime's names of element types -> NumPy's (ml_dtypes' for bfloat16).
TYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "bool": "bool",
    **{f"{u}int{n}": f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)},
}


class OrtSessions:
    """Opens ``model.onnx``."""

    target = "onnxruntime"

    def devices(self) -> tuple[Device, ...]:
        """One device for each execution provider of the installed onnxruntime that runs on this machine."""
        try:
            import onnxruntime as ort

            present = ort.get_available_providers()
        except (ImportError, AttributeError):
            return ()
        found = [Device(name, text) for provider, (name, text) in PROVIDERS.items() if provider in present]
        return tuple(sorted(found, key=lambda d: d.name in NEVER_AUTO))

    def lacks(self, built: Built) -> str:
        """Nothing: there is always the CPU."""
        return ""

    def open(
        self,
        model_file: Path,
        device: str,
        precision: str,
        cache_dir: Path | None,
        built: Built | None = None,
    ) -> OrtSession:
        """Opens one graph.

        `precision` changes nothing: the graph's own types are what ONNX Runtime computes in. `cache_dir` is
        not used: ONNX Runtime's optimized models hold the weights again and open no faster.

        Raises:
            LatentcError: no such device, the external data is not beside the model, or the file was refused.
        """
        name = choose(device, self.devices(), self.target, INSTALL)
        check_external_data(model_file)
        return OrtSession(inference_session(model_file, name, self.target), model_file.parent.name)


def inference_session(model_file: Path, device: str, target: str) -> Any:
    """An `InferenceSession` of one file, whose external data has been checked.

    Args:
        device: a name in `PROVIDERS`; what its provider has no kernel for runs on the CPU.

    Raises:
        LatentcError: onnxruntime refused the file.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # What it would print is in the error that we raise.
    # Threads that spin after a run take the cores from PyTorch and from other sessions.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Products with weights of 4 and 8 bits are computed in fp32; the default rounds activations to int8.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if (count := threads()) is not None:
        options.intra_op_num_threads = count
    if device == "directml":  # The provider refuses anything else.
        options.enable_mem_pattern = False
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    providers = [provider for provider, (name, _) in PROVIDERS.items() if name in (device, "cpu")]
    with opening(model_file, target):
        return ort.InferenceSession(str(model_file), options, providers=providers)


class OrtSession:
    """One `InferenceSession`. Inputs are lent to it; outputs are its memory, given to the caller."""

    def __init__(self, session: Any, name: str) -> None:
        self._session: Any = session
        self._name = name
        self.inputs: Mapping[str, TensorSpec] = {v.name: _spec(v) for v in session.get_inputs()}
        self.outputs: Mapping[str, TensorSpec] = {v.name: _spec(v) for v in session.get_outputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph once; see `runtimes.base.Session.run`."""
        if self._session is None:
            raise closed(self._name)
        check_inputs(inputs, self.inputs, self._name)
        with running(self._name, "onnxruntime", inputs):
            values = self._session.run_with_ort_values(
                list(self.outputs), {name: _lend(array) for name, array in inputs.items()}
            )
        return {name: _own(value) for name, value in zip(self.outputs, values, strict=True)}

    def close(self) -> None:
        """Frees the session; twice is harmless."""
        self._session = None


def _spec(value: Any) -> TensorSpec:
    text = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(d if isinstance(d, int) else (d or f"{value.name}_{i}") for i, d in enumerate(value.shape))
    return TensorSpec(name=value.name, dtype=TYPES.get(text, text), shape=shape)


def _lend(array: np.ndarray) -> Any:
    """An OrtValue on the array's own memory, which it keeps alive."""
    import numpy as np
    import onnxruntime as ort

    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.name == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _own(value: Any) -> np.ndarray:
    """The value's memory as a writable array that keeps it alive; nobody else writes to it."""
    import numpy as np

    if value.element_type() == BFLOAT16:  # Its NumPy type is ml_dtypes', which onnxruntime does not know.
        import ml_dtypes

        raw = (
            ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
            if 0 not in value.shape()
            else b""
        )
        return np.frombuffer(bytearray(raw), ml_dtypes.bfloat16).reshape(value.shape())
    array: np.ndarray = value.numpy()
    return array


SESSION = OrtSessions()
