"""TensorRT, played by ONNX Runtime on the CPU: what a session does with an engine is done, but for the GPU.

An engine holds the path of its ONNX file. Tensors are read and written at the addresses that were bound, sizes are
held to the profile, and errors are said to the logger, as TensorRT does.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from artifacts.manifest import Built
from artifacts.progress import Progress
from targets.tensorrt.engine_build import TYPES, EngineJob

VERSION = "1.2.3"
_NAMES = {
    "tensor(float)": "FLOAT",
    "tensor(float16)": "HALF",
    **{f"tensor({name})": name.upper() for name in ("bool", "int32", "int64", "uint8", "int8")},
}


class ILogger:
    """The base of the session's own logger."""

    Severity = SimpleNamespace(ERROR=0, INTERNAL_ERROR=1)


TensorIOMode = SimpleNamespace(INPUT=0, OUTPUT=1)
TensorLocation = SimpleNamespace(DEVICE=0, HOST=1)
ExecutionContextAllocationStrategy = SimpleNamespace(STATIC=0, USER_MANAGED=2)


def build(job: EngineJob, progress: Progress, task: str) -> Built:
    """Stands for `targets.tensorrt.engine_build.run`."""
    text = json.dumps({"onnx": job.onnx, "profile": job.profile}).encode()
    Path(job.engine).write_bytes(text)
    sha256 = hashlib.sha256(text).hexdigest()
    return {"version": VERSION, "compute_capabilities": ["sm89"], "sha256": sha256}


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, engine: bytes) -> Engine:
        return Engine(json.loads(engine), self._logger)


class Engine:
    def __init__(self, stored: dict[str, Any], logger: Any) -> None:
        self.session = ort.InferenceSession(stored["onnx"], providers=["CPUExecutionProvider"])
        self.profile = stored["profile"]
        self.logger = logger
        self.inputs = [v.name for v in self.session.get_inputs()]
        self.values = {v.name: v for v in (*self.session.get_inputs(), *self.session.get_outputs())}

    @property
    def num_io_tensors(self) -> int:
        return len(self.values)

    def get_tensor_name(self, i: int) -> str:
        return list(self.values)[i]

    def get_tensor_mode(self, name: str) -> int:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> int:
        return TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=_NAMES[self.values[name].type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else -1 for d in self.values[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self.profile[name]

    def create_execution_context(self, strategy: int) -> Context:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, int] = {}
        self._results: dict[str, np.ndarray] = {}
        self._scratch: tuple[int, int] | None = None

    def update_device_memory_size_for_shapes(self) -> int:
        return sum(map(math.prod, self._shapes.values()))

    def set_device_memory(self, address: int, size: int) -> None:
        self._scratch = address, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.profile.get(name, [shape] * 3)
        self._shapes[name] = shape
        return all(a <= d <= b for a, d, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, address: int) -> None:
        self._places[name] = address

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if not self._results:  # Inputs are bound first.
            feeds = {n: self._read(n) for n in self._engine.inputs}
            outputs = [n for n in self._engine.values if n not in self._engine.inputs]
            self._results = dict(zip(outputs, self._engine.session.run(outputs, feeds), strict=True))
        return self._results[name].shape

    def execute_async_v3(self, stream: int) -> bool:
        address, size = self._scratch or (0, 0)
        if size < self.update_device_memory_size_for_shapes():
            return False
        ctypes.memset(address, 255, size)  # an engine leaves there what it likes
        for name, array in self._results.items():
            made = np.ascontiguousarray(array)
            ctypes.memmove(self._places[name], made.ctypes.data, made.nbytes)
        self._results = {}
        return True

    def _read(self, name: str) -> np.ndarray:
        kind = self._engine.get_tensor_dtype(name).name.lower()
        dtype = np.dtype(TYPES.get(kind, kind))
        shape = self._shapes[name]
        data = ctypes.string_at(self._places[name], math.prod(shape) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape)


class Stream:
    """Of PyTorch's, where there is none."""

    cuda_stream = 0

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_stream(self, other: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass
