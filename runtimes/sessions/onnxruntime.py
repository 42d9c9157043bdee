"""Sessions of ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.manifest import Built, TensorSpec
from runtimes.sessions.common import InputCheck, choose, opening, running, threads
from runtimes.sessions.file_constants import Replaced, StoredConstant, require_constants
from runtimes.sessions.onnx_format import ONNX, with_constants
from runtimes.sessions.onnx_structure import check_onnx
from runtimes.sessions.session_contract import Device, NotStarted
from targets.onnxruntime.file_format import FORMAT

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
# Providers that refuse memory patterns and more than one node at a time.
SEQUENTIAL = frozenset({"DmlExecutionProvider"})
# CoreML compiles graphs of dynamic shapes poorly and in fp16; it is there for who asks.
NEVER_AUTO = frozenset({"coreml"})
# The graphs compute in fp32: that is what they are typed in, whatever their weights are stored in. CoreML narrows them.
COMPUTES = {"coreml": ("fp16",)}
# CoreML chooses between the processor and what is beside it.
ON_HOST = frozenset({"cpu"})
# Devices with memory of their own that tensors are placed in before a run and fetched from after it, under ONNX
# Runtime's name of that memory. For the others it copies by itself, node by node where it must.
MEMORY = {"cuda": "cuda"}
# ONNX Runtime's setting: where a model that is no file has its external data.
_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
# Element types of constants -> their numbers in onnx.TensorProto.
ELEMENTS = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "float16": 10,
    "bfloat16": BFLOAT16,
    "uint4": 21,
    "int4": 22,
}

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
        present = available_providers()
        devices = [
            Device(name, text, computes=COMPUTES.get(name, ("fp32",)), on_host=name in ON_HOST)
            for provider, (name, text) in PROVIDERS.items()
            if provider in present
        ]
        return tuple(sorted(devices, key=lambda d: d.name in NEVER_AUTO))

    def lacks(self, built: Built) -> str:
        """Nothing: there is always the CPU."""
        return ""

    def open(
        self,
        model_file: Path,
        device: str,
        compute: str,
        cache_dir: Path | None,
        built: Built | None = None,
    ) -> OrtSession:
        """Opens one graph.

        `compute` changes nothing: each device has one type. `cache_dir` is not used: ONNX Runtime's optimized
        models hold the weights again and open no faster.

        Raises:
            LatentcError: no such device, the file holds what the target does not write, or it was refused.
        """
        return self._opened(model_file, device, None)

    def constants(self, model_file: Path) -> dict[str, StoredConstant]:
        """The initializers; see `runtimes.sessions.file_constants.TakesConstants`."""
        return ONNX.constants(model_file)

    def open_with(
        self,
        model_file: Path,
        device: str,
        compute: str,
        constants: Replaced,
        built: Built | None = None,
    ) -> OrtSession:
        """See `runtimes.sessions.file_constants.TakesConstants`. The other weights are mapped from their file."""
        stored = self.constants(model_file)
        sizes = {name: constant.nbytes for name, constant in stored.items()}
        require_constants(constants, sizes, model_file.parent.name)
        return self._opened(model_file, device, _Lent.of(constants, stored))

    def _opened(self, model_file: Path, device: str, lent: _Lent | None) -> OrtSession:
        devices = self.devices()
        names = [choose(device, devices, self.target, INSTALL)]
        if device == "auto":  # A package for GPUs lists them on machines that have none.
            names = [d.name for d in devices]
        check_onnx(model_file, FORMAT)
        for name in names[:-1]:
            with suppress(NotStarted):
                return self._open(model_file, name, lent)
        return self._open(model_file, names[-1], lent)

    def open_part(
        self, part: bytes, model_file: Path, device: str, compute: str, narrow: Collection[str] = ()
    ) -> OrtSession:
        """Opens a part of a graph, whose weights stay in the whole graph's files; values have the file's own types.

        Raises:
            LatentcError: no such device, the whole graph's file holds what the target does not write, or the part was
                refused.
        """
        name = choose(device, self.devices(), self.target, INSTALL)
        check_onnx(model_file, FORMAT)
        session = inference_session(model_file, name, self.target, part=part)
        return OrtSession(session, model_file.parent.name, name, MEMORY.get(name))

    def _open(self, model_file: Path, device: str, lent: _Lent | None) -> OrtSession:
        session = inference_session(model_file, device, self.target, lent)
        return OrtSession(session, model_file.parent.name, device, MEMORY.get(device), lent)


def available_providers() -> tuple[str, ...]:
    """The execution providers of the installed onnxruntime; empty where there is none."""
    try:
        import onnxruntime as ort

        return tuple(ort.get_available_providers())
    except (ImportError, AttributeError):
        return ()


@dataclass(frozen=True)
class _Lent:
    """Constants that are not a file's own, for as long as a session is open: ONNX Runtime does not keep them alive.

    Attributes:
        inside: bytes of those that stand in the model's file itself.
        beside: tensors in the places of those that lie beside it.
    """

    inside: Replaced
    beside: Mapping[str, Any]

    @classmethod
    def of(cls, constants: Replaced, stored: Mapping[str, StoredConstant]) -> _Lent:
        beside = {name: _value(stored[name], constants[name]) for name in constants if stored[name].file}
        return cls({name: data for name, data in constants.items() if name not in beside}, beside)

    def model(self, model_file: Path, options: Any) -> bytes:
        """The model with these constants; `options` say where the others lie."""
        options.add_session_config_entry(_DATA_FOLDER, str(model_file.parent))
        if self.beside:
            options.add_external_initializers(list(self.beside), list(self.beside.values()))
        return with_constants(model_file, self.inside)


def inference_session(
    model_file: Path, device: str, target: str, lent: _Lent | None = None, part: bytes | None = None
) -> Any:
    """An `InferenceSession` of one file, whose external data has been checked.

    Args:
        part: in the place of the file: a part of its graph, whose data is the file's.
        device: a name in `PROVIDERS`; what its provider has no kernel for runs on the CPU.
        lent: constants in the places of the file's own; they must live as long as the session.

    Raises:
        NotStarted: the device's provider did not start; ONNX Runtime would run all of it on the CPU.
        LatentcError: onnxruntime refused the file.
    """
    import onnxruntime as ort

    if sys.platform == "win32" and os.environ.get("ORT_DISABLE_TELEMETRY") == "1":
        # What goes to Windows' own tracing does not follow the variable.
        ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # What it would print is in the error that we raise.
    # Bytes that have "ORTM" in the right place, as a producer's name can, would be parsed as a format of its own that
    # nobody has looked through.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Threads that spin after a run take the cores from PyTorch and from other sessions.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Products with weights of 4 and 8 bits are computed in fp32; the default rounds activations to int8.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if (count := threads()) is not None:
        options.intra_op_num_threads = count
    providers = [provider for provider, (name, _) in PROVIDERS.items() if name in (device, "cpu")]
    if not SEQUENTIAL.isdisjoint(providers):
        options.enable_mem_pattern = False
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    with opening(model_file, target), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns of a provider that is missing; we raise.
        source: str | bytes = str(model_file)
        if lent is not None:
            source = lent.model(model_file, options)
        if part is not None:
            source = part
            options.add_session_config_entry(_DATA_FOLDER, str(model_file.parent))
        # Its own fallback opens the file once more, on the CPU, and tells standard output.
        session = ort.InferenceSession(source, options, providers=providers, enable_fallback=0)
    if providers[0] not in session.get_providers():
        raise NotStarted(
            f"ONNX Runtime's {providers[0]} did not start: there is no such device here, or its libraries are missing.",
            "Use --device cpu, or install what the provider needs: https://onnxruntime.ai/docs/execution-providers",
        )
    return session


def _value(stored: StoredConstant, data: np.ndarray) -> Any:
    """A tensor on the bytes `data`, of the element type and shape of a constant."""
    import numpy as np
    import onnxruntime as ort

    size = max(stored.nbytes // max(stored.size, 1), 1)
    if stored.nbytes < stored.size:
        # Two elements to a byte: ONNX Runtime counts a byte for each, and reads the first half. What is never written
        # takes no memory.
        padded = np.empty(stored.size, np.uint8)
        padded[: data.nbytes] = data
        data = padded
    array = data.view(f"u{size}").reshape(stored.shape)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, ELEMENTS[stored.dtype])


class OrtSession:
    """One `InferenceSession`. Inputs are lent to it; outputs are copied: a value of its own would keep all of the
    session's memory, also after `close`."""

    def __init__(
        self,
        session: Any,
        name: str,
        device: str,
        memory: str | None = None,
        lent: _Lent | None = None,
    ) -> None:
        """
        Args:
            memory: where tensors lie during a run, under ONNX Runtime's name ("cuda"); None for wherever it likes.
            lent: constants that it uses for as long as it is open.
        """
        self._session: Any = session
        self._lent = lent
        self._name = name
        self.device = device
        self._memory = memory
        self.inputs: Mapping[str, TensorSpec] = {v.name: _spec(v) for v in session.get_inputs()}
        self.outputs: Mapping[str, TensorSpec] = {v.name: _spec(v) for v in session.get_outputs()}
        self._check = InputCheck(self.inputs, name)
        specs = (*self.inputs.values(), *self.outputs.values())
        self._is_numpys = memory is None and all(spec.dtype != "bfloat16" for spec in specs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph once; see `runtimes.sessions.session_contract.Session.run`."""
        import numpy as np

        self._check.check(self._session, inputs)
        with running(self._name, "onnxruntime", inputs):
            if self._is_numpys:
                # Arrays that NumPy has types for are lent as they are.
                arrays = self._session.run(list(self.outputs), dict(inputs))
                return {name: np.array(array) for name, array in zip(self.outputs, arrays, strict=True)}
            if self._memory is None:
                lent = {name: _lend(array) for name, array in inputs.items()}
                values = self._session.run_with_ort_values(list(self.outputs), lent)
            else:
                values = self._run_bound(inputs, self._memory)
            return {name: _own(value) for name, value in zip(self.outputs, values, strict=True)}

    def _run_bound(self, inputs: Mapping[str, np.ndarray], memory: str) -> Any:
        """One run on tensors that lie in the device's memory: one copy in, one copy out, none between nodes."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, _lend(array, memory))
        for name, spec in self.outputs.items():
            binding.bind_output(
                name, "cpu" if spec.dtype == "bfloat16" else memory
            )  # `_own` reads its bytes.
        self._session.run_with_iobinding(binding)
        return binding.get_outputs()

    def close(self) -> None:
        """Frees the session; twice is harmless."""
        self._session = None
        self._lent = None


def _spec(value: Any) -> TensorSpec:
    text = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(d if isinstance(d, int) else (d or f"{value.name}_{i}") for i, d in enumerate(value.shape))
    return TensorSpec(name=value.name, dtype=TYPES.get(text, text), shape=shape)


def _lend(array: np.ndarray, memory: str = "cpu") -> Any:
    """An OrtValue on the array's own memory, which it keeps alive; in another `memory`, a copy."""
    import numpy as np
    import onnxruntime as ort

    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.type.__name__ == "bfloat16":  # NumPy puts the name of a dtype together each time.
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array, memory)


def _own(value: Any) -> np.ndarray:
    """The value as a writable array."""
    import numpy as np

    if value.element_type() == BFLOAT16:  # Its NumPy type is ml_dtypes', which onnxruntime does not know.
        import ml_dtypes

        raw = (
            ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
            if 0 not in value.shape()
            else b""
        )
        return np.frombuffer(bytearray(raw), ml_dtypes.bfloat16).reshape(value.shape())
    return np.array(value.numpy())


SESSION = OrtSessions()
