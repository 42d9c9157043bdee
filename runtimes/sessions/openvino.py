"""Sessions of OpenVINO."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from artifacts.manifest import Built, TensorSpec
from runtimes.sessions.common import InputCheck, choose, opening, running
from runtimes.sessions.exact_sizes import Shapes, SizedSession
from runtimes.sessions.file_constants import Replaced, StoredConstant
from runtimes.sessions.openvino_compiling import ONLY_FP16, StoredGraph, compiled, config_of, hand_over
from runtimes.sessions.openvino_format import IR
from runtimes.sessions.openvino_structure import check_openvino
from runtimes.sessions.openvino_widened import widened, widened_bytes
from runtimes.sessions.session_contract import Device, Session, Structure
from runtimes.sessions.temporary_weights import TemporaryWeights
from targets.openvino.file_format import FORMAT
from targets.openvino.stored_form import EXTRA, RESULT, as_run, is_stored

if TYPE_CHECKING:
    import numpy as np

INSTALL = "pip install openvino"

# OpenVINO's element types by their own names -> NumPy's (ml_dtypes' for bfloat16).
TYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "bf16": "bfloat16",
    "boolean": "bool",
    **{f"{c}{n}": f"{k}{n}" for c, k in (("i", "int"), ("u", "uint")) for n in (8, 16, 32, 64)},
}


class OpenVinoSessions:
    """Opens ``openvino_model.xml``."""

    target = "openvino"
    format = IR

    def __init__(self, calls: tuple[Shapes, ...] = ()) -> None:
        """
        Args:
            calls: all that a graph is called with, where it is opened for these; see `sized`.
        """
        self._calls = calls

    def sized(self, calls: tuple[Shapes, ...]) -> OpenVinoSessions:
        """See `runtimes.sessions.exact_sizes.TakesSizes`. A CPU takes some 0.8 of the time for a small graph."""
        return OpenVinoSessions(calls)

    def devices(self) -> tuple[Device, ...]:
        """What `openvino.Core` lists, the CPU first: "cpu", "gpu", "gpu.1", "npu"."""
        try:
            import openvino as ov

            core = ov.Core()
            devices = [
                Device(
                    d.lower(),
                    str(core.get_property(d, "FULL_DEVICE_NAME")),
                    computes=computes(d, core.get_property(d, "OPTIMIZATION_CAPABILITIES")),
                    on_host=d.partition(".")[0] == "CPU",
                )
                for d in core.available_devices
            ]
        except (ImportError, RuntimeError):
            return ()
        return tuple(sorted(devices, key=lambda d: not d.on_host))

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
    ) -> Session:
        """Opens one graph.

        The type to compute in is a hint to OpenVINO, and always given: its own choice is by the device alone.

        `cache_dir` keeps the compiled graph without its weights, which stay in the artifact. OpenVINO knows a
        blob by the model's path, so the folder must be this content's own.

        Raises:
            LatentcError: no such device, the file holds what the target does not write, or OpenVINO refused it.
        """
        return self._opened(model_file, device, compute, cache_dir, {})

    def constants(self, model_file: Path) -> dict[str, StoredConstant]:
        """The constants; see `runtimes.sessions.file_constants.TakesConstants`."""
        return IR.constants(model_file)

    def open_with(
        self,
        model_file: Path,
        device: str,
        compute: str,
        constants: Replaced,
        built: Built | None = None,
    ) -> Session:
        """See `runtimes.sessions.file_constants.TakesConstants`. The other weights are mapped from their file."""
        return self._opened(model_file, device, compute, None, constants)

    def file_to_open(self, model_file: Path, device: str, compute: str, folder: Path) -> Path:
        """See `runtimes.sessions.session_contract.ReplacesFile`: on a CPU with the weights of convolutions widened.

        Raises:
            LatentcError: no such device, or OpenVINO refused the file.
        """
        name = choose(device, self.devices(), self.target, INSTALL).upper()
        if name != "CPU":
            return model_file
        import openvino as ov

        with opening(model_file, self.target):
            return widened(ov.Core(), model_file, compute, folder)

    def structure_to_open(self, model_file: Path, device: str, compute: str) -> Structure:
        """See `runtimes.sessions.session_contract.ReplacesFile`."""
        name = choose(device, self.devices(), self.target, INSTALL).upper()
        return IR.structure(model_file, widened_bytes(model_file, compute) if name == "CPU" else 0)

    def open_part(
        self, part: bytes, model_file: Path, device: str, compute: str, narrow: Collection[str] = ()
    ) -> OpenVinoSession:
        """Opens a part of a graph, whose weights stay in the whole graph's file.

        Raises:
            LatentcError: no such device, the part holds what the target does not write, or OpenVINO refused it.
        """
        name = choose(device, self.devices(), self.target, INSTALL).upper()
        import openvino as ov

        core, weights = ov.Core(), model_file.with_suffix(".bin")
        with opening(model_file, self.target), TemporaryDirectory(prefix="latentc-part-") as folder:
            file = Path(folder) / model_file.name
            file.write_bytes(part)
            check_openvino(file, FORMAT, weights=weights)
            model = core.read_model(file, weights)
            if is_stored(file):
                as_run(model)
            hand_over(model, narrow, compute)
            compiled = core.compile_model(model, name, config_of(core, name, compute))
            return OpenVinoSession(compiled, model_file.parent.name, name.lower())

    def _opened(
        self, model_file: Path, device: str, compute: str, cache_dir: Path | None, constants: Replaced
    ) -> Session:
        name = choose(device, self.devices(), self.target, INSTALL).upper()
        import openvino as ov

        check_openvino(model_file, FORMAT, cache_dir)
        core = ov.Core()
        config = config_of(core, name, compute)
        label = model_file.parent.name
        with opening(model_file, self.target):
            if not (constants or is_stored(model_file) or name == "CPU"):
                if cache_dir is not None:
                    config |= {"CACHE_DIR": str(cache_dir), "CACHE_MODE": "OPTIMIZE_SIZE"}
                return OpenVinoSession(core.compile_model(model_file, name, config), label, name.lower())
            file, weights = model_file, None
            if name == "CPU" and not constants:
                file, weights = _widened(core, model_file, compute, cache_dir)
            graph = StoredGraph(core, file, constants)
            cache = None if constants else cache_dir

            def session(shapes: Shapes | None, cache: Path | None = None) -> OpenVinoSession:
                with opening(model_file, self.target):
                    model = compiled(core, graph, name, config, cache, shapes)
                    return OpenVinoSession(model, label, name.lower(), constants, weights)

            calls = self._calls if name == "CPU" and _affordable(self._calls, model_file) else ()
            first = session(calls[0] if calls else None, cache)
            if len(calls) <= 1:
                return first
            source = graph.read()
            inputs = {spec.name: spec for spec in map(_spec, source.inputs)}
            outputs = _outputs(port for port in source.outputs if not _is_extra(port))
            return SizedSession(calls, first, session, inputs, outputs, label)


def _widened(
    core: Any, model_file: Path, compute: str, cache_dir: Path | None
) -> tuple[Path, TemporaryWeights | None]:
    """The file to open in the place of `model_file`, and what holds it where no cache does."""
    if cache_dir is not None:
        return widened(core, model_file, compute, cache_dir), None
    try:
        weights = TemporaryWeights()
    except OSError:  # No folder for temporary files: it takes more memory.
        return model_file, None
    file = widened(core, model_file, compute, weights.folder)
    if file == model_file:
        weights.remove()
        return file, None
    return file, weights


MOST_PACKED = 64 * 2**20
"""Bytes of weights in all, for a graph to be compiled for each of its calls: each packs them for itself, and in large
graphs the products are what takes the time (0.99 of a step of Stable Diffusion 1.5's size)."""


def _affordable(calls: tuple[Shapes, ...], model_file: Path) -> bool:
    return len(calls) * model_file.with_suffix(".bin").stat().st_size <= MOST_PACKED


# Kind of device -> what it computes in, where its capabilities say so; what it is best at first. Arithmetic in fp16 on
# a CPU is there for who asks: OpenVINO's kernels are made for bf16, whose range is fp32's.
PREFERRED = {"CPU": ("bf16", "fp32", "fp16"), "GPU": ("fp16", "fp32", "bf16")}


def computes(device: str, capabilities: Collection[str]) -> tuple[str, ...]:
    """`Device.computes` of the device that OpenVINO calls `device` ("CPU", "GPU.0").

    A CPU without bf16 instructions would emulate them some twenty times slower than fp32: it does not list them.

    Args:
        capabilities: its OPTIMIZATION_CAPABILITIES ("BF16", "FP16", ...).
    """
    kind = device.partition(".")[0]
    if kind == ONLY_FP16:
        return ("fp16",)
    preferred = PREFERRED.get(kind, ("fp32",))
    return tuple(compute for compute in preferred if compute == "fp32" or compute.upper() in capabilities)


LOSES_MEMORY = {
    "RoPE": "OpenVINO 2026.4.1: after `release_memory` a call of the same sizes, where these are not of the graph, "
    "writes past what was given back, and the process ends.",
}
"""Kernels of a CPU -> why a graph that runs them gives no memory back."""


class OpenVinoSession:
    """One compiled model and one request. Inputs are lent to it, outputs are copied out of it."""

    def __init__(
        self,
        model: Any,
        name: str,
        device: str,
        constants: Replaced | None = None,
        weights: TemporaryWeights | None = None,
    ) -> None:
        """
        Args:
            constants: what is lent to the model for as long as it is open: OpenVINO does not keep arrays alive.
            weights: what it maps files of, removed when it is closed.
        """
        self._weights = weights
        self._model: Any = model
        self._constants = constants
        self.device = device
        self._request: Any = model.create_infer_request()
        self._name = name
        self.inputs: Mapping[str, TensorSpec] = {s.name: s for s in map(_spec, model.inputs)}
        shown = [(i, port) for i, port in enumerate(model.outputs) if not _is_extra(port)]
        self.outputs: Mapping[str, TensorSpec] = _outputs(port for _, port in shown)
        self._places = [i for i, _ in shown]
        self._check = InputCheck(self.inputs, name)
        self._may_release: bool | None = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph once; see `runtimes.sessions.session_contract.Session.run`."""
        self._check.check(self._request, inputs)
        import numpy as np

        with running(self._name, "openvino", inputs):
            lent = []  # OpenVINO does not keep arrays alive.
            for i, name in enumerate(self.inputs):
                array = inputs[name]
                if not array.flags.carray:  # A read-only or sliced array cannot be shared; 0-d stays 0-d.
                    array = np.require(array, requirements=["C", "A", "W"]).reshape(array.shape)
                lent.append(array)
                # Set one by one: `infer` looks for the kind of what it is given in Python, half a millisecond.
                self._request.set_input_tensor(i, _lend(array))
            self._request.start_async()
            self._request.wait()
            return {
                n: _own(self._request.get_output_tensor(i), spec)
                for (n, spec), i in zip(self.outputs.items(), self._places, strict=True)
            }

    def release(self) -> bool:
        """Gives back the memory that calls computed in, until the next; returns whether it may."""
        if self._model is None:
            return True
        if self._may_release is None:
            self._may_release = LOSES_MEMORY.keys().isdisjoint(_kernels(self._model))
        if self._may_release:
            self._model.release_memory()
        return self._may_release

    def close(self) -> None:
        """Frees the request and the compiled model; twice is harmless."""
        self._request = None
        self._model = None
        self._constants = None
        if self._weights is not None:
            self._weights.remove()
            self._weights = None


def _kernels(model: Any) -> set[str]:
    """What a compiled model runs, by the vendor's names."""
    facts = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
    types = [info["layerType"] for info in facts if "layerType" in info]
    return {str(getattr(kind, "value", kind)) for kind in types}


def _lend(array: np.ndarray) -> Any:
    """A tensor on the array's own memory, which it keeps alive."""
    import numpy as np
    import openvino as ov

    if array.dtype.type.__name__ == "bfloat16":  # NumPy's type is ml_dtypes', which OpenVINO does not know.
        return ov.Tensor(array.view(np.uint16), ov.Shape(array.shape), ov.Type.bf16)
    return ov.Tensor(array, shared_memory=True)


def _own(tensor: Any, spec: TensorSpec) -> np.ndarray:
    """A copy of the tensor."""
    array: np.ndarray = tensor.data.copy()
    if spec.dtype == "bfloat16":
        import ml_dtypes

        return array.view(ml_dtypes.bfloat16)
    return array


def _is_extra(port: Any) -> bool:
    """Whether it is an output that keeps what leads to it in fp32, and is not the graph's."""
    return any(name.startswith(EXTRA) for name in port.get_names())


def _outputs(ports: Iterable[Any]) -> dict[str, TensorSpec]:
    """Results by name. A tensor may have several: where OpenVINO takes nodes away, what they gave gets their names."""
    names = ((port, port.get_node().get_friendly_name().removesuffix(RESULT)) for port in ports)
    specs = (_spec(port, name if name in port.get_names() else "") for port, name in names)
    return {spec.name: spec for spec in specs}


def _spec(port: Any, name: str = "") -> TensorSpec:
    name = name or port.get_any_name()
    kind = port.get_element_type().get_type_name()
    shape = tuple(
        d.get_length() if d.is_static else f"{name}_{i}" for i, d in enumerate(port.get_partial_shape())
    )
    return TensorSpec(name=name, dtype=TYPES.get(kind, kind), shape=shape)


SESSION = OpenVinoSessions()
