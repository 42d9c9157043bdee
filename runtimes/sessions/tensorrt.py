"""Sessions of TensorRT and TensorRT-RTX."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts import trusted_engines
from artifacts.disk import write_cached
from artifacts.errors import LatentcError
from artifacts.manifest import Built, TensorSpec
from runtimes.sessions.common import check_run, choose, opening, running
from runtimes.sessions.onnx_structure import check_onnx
from runtimes.sessions.scratch import Scratch, scratch
from runtimes.sessions.session_contract import Device, Refused
from runtimes.torch_arrays import from_tensor, to_tensor
from targets.tensorrt.engine_build import dtype_name, error_logger
from targets.tensorrt.file_format import FORMAT
from targets.tensorrt.target import BUILDERS, MODEL, Builder, version_here

if TYPE_CHECKING:
    import numpy as np

# The file in a session's cache folder that keeps the kernels which TensorRT-RTX compiles on the GPU.
KERNELS = "kernels.bin"


class TensorRtSessions:
    """Opens ``model.engine``."""

    target = "tensorrt"
    runs_code = True
    """Engines are executed."""

    def devices(self) -> tuple[Device, ...]:
        """The NVIDIA GPUs that PyTorch can use: "cuda", "cuda.1"; none where no builder is installed."""
        if not any(version_here(name) for name in BUILDERS):
            return ()
        return tuple(
            Device("cuda" + (f".{i}" if i else ""), f"{name} ({capability})")
            for i, (name, capability) in enumerate(_gpus())
        )

    def lacks(self, built: Built) -> str:
        """A GPU that the engine was built for, where none is here."""
        wanted = _capabilities(built)
        present = _gpus()
        if any(capability in wanted for _, capability in present):
            return ""
        gpus = ", ".join(f"{name} ({capability})" for name, capability in present) or "none"
        return f"an NVIDIA GPU of {' or '.join(wanted)}; here is: {gpus}"

    def open(
        self,
        model_file: Path,
        device: str,
        compute: str,
        cache_dir: Path | None,
        built: Built | None = None,
    ) -> TensorRtSession:
        """Opens one engine. `compute` changes nothing: the engine's own types are what is computed in.

        An engine is code. It is loaded when its bytes are those that `built` names and the user trusts them
        (`artifacts.trusted_engines`), and not otherwise.

        Raises:
            LatentcError: the engine is not the one that was compiled, is nobody's whom the user trusts, is for another
                GPU or another version of TensorRT, or was refused.
        """
        if model_file.is_symlink() or not model_file.is_file():
            raise LatentcError(f"{model_file} is not a plain file.")
        engine = model_file.read_bytes()
        sha256 = hashlib.sha256(engine).hexdigest()
        if built is None or sha256 != built.get("sha256"):
            raise LatentcError(
                f"{model_file} is not the engine that the manifest names; engines are code, so it is not loaded.",
                "Compile the model again.",
            )
        trusted_engines.require_trusted(sha256, model_file)
        builder = _builder(built)
        if lacks := self.lacks(built):
            raise LatentcError(
                f"{model_file.parent.name} needs {lacks}.",
                "Compile for the GPU that is here (latentc compile MODEL OUT --target tensorrt --gpu ...), "
                "or for the CPU: --target onnxruntime",
            )
        name = choose(device, self.devices(), self.target, builder.install)
        with opening(model_file, self.target):
            return TensorRtSession(builder, engine, model_file, name, cache_dir, built)


class TensorRtSession:
    """One engine, one execution context and one stream; tensors are PyTorch's, bound by address.

    Activations lie in a block that all engines of the device share.
    """

    def __init__(
        self,
        builder: Builder,
        engine: bytes,
        model_file: Path,
        device: str,
        cache_dir: Path | None,
        built: Built,
    ) -> None:
        import importlib

        import torch

        trt: Any = importlib.import_module(builder.module)
        self._name = model_file.parent.name
        self.device = device
        self._device = _device(device)
        self._said: list[str] = []
        with torch.cuda.device(self._device):
            self._runtime: Any = trt.Runtime(error_logger(trt, self._said))
            if built.get("version_compatible"):
                # Such an engine brings the code of the runtime that it needs. Not because the manifest says so: `open`
                # has asked whether the user trusts these bytes.
                self._runtime.engine_host_code_allowed = True
            self._engine: Any = self._runtime.deserialize_cuda_engine(engine)
            if self._engine is None:
                raise Refused("; ".join(self._said) or "the engine was refused")
            if built.get("strip"):
                self._refit(trt, model_file.with_name(MODEL))
            if built.get("weight_streaming"):
                # Before the first context. As many weights as fit stay on the GPU.
                self._engine.weight_streaming_budget_v2 = self._engine.get_weight_streaming_automatic_budget()
            self._cache = _Kernels(trt, self._engine, cache_dir)
            self._context: Any = self._cache.context()
            self._stream: Any = torch.cuda.Stream(self._device)
        self._scratch: Scratch | None = scratch(self._device)
        specs = [_spec(self._engine, i) for i in range(self._engine.num_io_tensors)]
        is_input = {s.name: self._engine.get_tensor_mode(s.name) == trt.TensorIOMode.INPUT for s in specs}
        on_host = trt.TensorLocation.HOST
        self._host = {s.name for s in specs if self._engine.get_tensor_location(s.name) == on_host}
        self.inputs: Mapping[str, TensorSpec] = {s.name: s for s in specs if is_input[s.name]}
        self.outputs: Mapping[str, TensorSpec] = {s.name: s for s in specs if not is_input[s.name]}

    def _refit(self, trt: Any, onnx_file: Path) -> None:
        """Fills a stripped engine with the weights of the ONNX file that it was built of."""
        check_onnx(onnx_file, FORMAT)
        logger = error_logger(trt, self._said)
        refitter = trt.Refitter(self._engine, logger)
        parser = trt.OnnxParserRefitter(refitter, logger)
        if not parser.refit_from_file(str(onnx_file)) or not refitter.refit_cuda_engine():
            raise Refused("; ".join(self._said) or f"the weights of {onnx_file.name} do not fit the engine")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the engine once; see `runtimes.sessions.session_contract.Session.run`."""
        check_run(self._context, inputs, self.inputs, self._name)
        assert self._scratch is not None
        import torch

        with running(self._name, "tensorrt", inputs), torch.cuda.device(self._device):
            tensors = {name: self._place(name, array) for name, array in inputs.items()}
            with self._scratch.lock:
                results = self._run(tensors, self._scratch)
            return {name: from_tensor(tensor.cpu()) for name, tensor in results.items()}

    def _place(self, name: str, array: np.ndarray) -> Any:
        tensor = _on_host(array)
        return tensor if name in self._host else tensor.to(self._device)

    def _run(self, inputs: Mapping[str, Any], memory: Scratch) -> dict[str, Any]:
        """One run on tensors that lie on the device, to its end."""
        import torch

        context = self._context
        self._said.clear()
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise LatentcError(
                    f"{self._name} was not built for '{name}' of {list(tensor.shape)} (it is for: "
                    f"{self._range(name)}).",
                    "Compile it for that size: --size, --batch",
                )
            context.set_tensor_address(name, tensor.data_ptr())
        if needed := context.update_device_memory_size_for_shapes():
            context.set_device_memory(*memory.at_least(needed))
        results = {}
        for name, spec in self.outputs.items():
            shape = tuple(context.get_tensor_shape(name))
            place = torch.device("cpu") if name in self._host else self._device
            results[name] = torch.empty(shape, dtype=getattr(torch, spec.dtype), device=place)
            context.set_tensor_address(name, results[name].data_ptr())
        # The copies to the device are queued on PyTorch's own stream.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        if not context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError("; ".join(self._said) or "the engine did not run")
        self._stream.synchronize()
        return results

    def _range(self, name: str) -> str:
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        return f"{list(low)} to {list(high)}"

    def close(self) -> None:
        """Keeps the compiled kernels and frees the engine; twice is harmless."""
        if self._context is not None:
            self._cache.keep()
        self._context = None
        self._engine = None
        self._runtime = None
        self._scratch = None


class _Kernels:
    """What TensorRT-RTX compiles for the GPU it runs on, kept on disk between starts.

    TensorRT proper has no such step, and its bindings no such class.
    """

    def __init__(self, trt: Any, engine: Any, folder: Path | None) -> None:
        self._engine = engine
        # Activations are given to the context at each run.
        self._memory: Any = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._file = None if folder is None else folder / KERNELS
        self._cache: Any = None
        self._config: Any = None
        if not hasattr(trt, "IRuntimeCache"):
            return
        self._config = engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(self._memory)
        dynamic = any(
            -1 in tuple(engine.get_tensor_shape(engine.get_tensor_name(i)))
            for i in range(engine.num_io_tensors)
        )
        if not dynamic:
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = self._config.create_runtime_cache()
        if self._file is not None and self._file.is_file():
            # It is refused unless it is of this version, GPU and driver.
            self._cache.deserialize(self._file.read_bytes())
        self._config.set_runtime_cache(self._cache)

    def context(self) -> Any:
        """A new execution context of the engine."""
        if self._config is None:
            return self._engine.create_execution_context(self._memory)
        return self._engine.create_execution_context(self._config)

    def keep(self) -> None:
        """Writes the kernels; a folder that cannot be written costs time, not function."""
        if self._cache is not None and self._file is not None:
            write_cached(self._file, bytes(self._cache.serialize()))


def _capabilities(built: Built) -> tuple[str, ...]:
    capabilities = built.get("compute_capabilities")
    return tuple(map(str, capabilities)) if isinstance(capabilities, list) else ()


def _builder(built: Built) -> Builder:
    """The builder of an engine, if it is installed in the engine's version.

    Raises:
        LatentcError: it is not.
    """
    name, version = str(built.get("builder")), str(built.get("version"))
    if name not in BUILDERS:
        raise LatentcError(f"there is no builder '{name}' (there are: {', '.join(BUILDERS)}).")
    builder, installed = BUILDERS[name], version_here(name)
    if installed != version and not (built.get("version_compatible") and _opens(installed, version)):
        raise LatentcError(
            f"the engine needs {builder.title} {version}, which built it; here is: {installed or 'none'}.",
            f"Run: pip install {' '.join(f'{package}=={version}' for package in builder.packages)}",
        )
    return builder


def _opens(installed: str, version: str) -> bool:
    """Whether the version that is here opens version-compatible engines of `version`: not older, of its major."""

    def parts(text: str) -> list[int]:
        return [int(part) for part in text.split(".") if part.isdigit()]

    ours, theirs = parts(installed), parts(version)
    return ours[:1] == theirs[:1] and ours >= theirs


def _gpus() -> list[tuple[str, str]]:
    """Name and compute capability ("sm89") of each NVIDIA GPU that PyTorch can use."""
    import torch

    if not torch.cuda.is_available() or torch.version.cuda is None:
        return []
    gpus = []
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        gpus.append((torch.cuda.get_device_name(i), f"sm{major}{minor}"))
    return gpus


def _device(name: str) -> Any:
    """PyTorch's device of ours: "cuda.1" is its "cuda:1"."""
    import torch

    return torch.device("cuda", int(name.partition(".")[2] or 0))


def _spec(engine: Any, i: int) -> TensorSpec:
    name = engine.get_tensor_name(i)
    shape = tuple(
        f"{name}_{axis}" if d < 0 else int(d) for axis, d in enumerate(engine.get_tensor_shape(name))
    )
    return TensorSpec(name=name, dtype=dtype_name(engine.get_tensor_dtype(name)), shape=shape)


def _on_host(array: np.ndarray) -> Any:
    """The array as PyTorch's, in one piece, as it is copied to the device or read there."""
    import numpy as np

    # NumPy makes an array of no dimension one of one.
    return to_tensor(np.require(array, requirements=["C", "A", "W"]).reshape(array.shape))


SESSION = TensorRtSessions()
