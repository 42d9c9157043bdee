"""Sessions of OpenVINO."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from artifacts.manifest import Built, TensorSpec
from runtimes.sessions.common import InputCheck, choose, opening, running, threads
from runtimes.sessions.file_constants import Replaced, StoredConstant, require_constants
from runtimes.sessions.openvino_format import IR
from runtimes.sessions.openvino_structure import check_openvino
from runtimes.sessions.session_contract import Device
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
                )
                for d in core.available_devices
            ]
        except (ImportError, RuntimeError):
            return ()
        return tuple(sorted(devices, key=lambda d: not d.name.startswith("cpu")))

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
    ) -> OpenVinoSession:
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
    ) -> OpenVinoSession:
        """See `runtimes.sessions.file_constants.TakesConstants`. The other weights are mapped from their file."""
        return self._opened(model_file, device, compute, None, constants)

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
            _hand_over(model, narrow, compute)
            compiled = core.compile_model(model, name, _config(core, name, compute))
            return OpenVinoSession(compiled, model_file.parent.name, name.lower())

    def _opened(
        self, model_file: Path, device: str, compute: str, cache_dir: Path | None, constants: Replaced
    ) -> OpenVinoSession:
        name = choose(device, self.devices(), self.target, INSTALL).upper()
        import openvino as ov

        check_openvino(model_file, FORMAT, cache_dir)
        core = ov.Core()
        config = _config(core, name, compute)
        with opening(model_file, self.target):
            if constants:
                model = core.compile_model(_edited(core, model_file, constants), name, config)
            elif is_stored(model_file) or name == "CPU":
                model = _compiled_as_run(core, model_file, name, config, cache_dir)
            else:
                if cache_dir is not None:
                    config |= {"CACHE_DIR": str(cache_dir), "CACHE_MODE": "OPTIMIZE_SIZE"}
                model = core.compile_model(model_file, name, config)
            return OpenVinoSession(model, model_file.parent.name, name.lower(), constants)


def _edited(core: Any, model_file: Path, constants: Replaced) -> Any:
    """The model that the file holds, as it is run, with other constants, which are not copied."""
    import openvino as ov

    require_constants(constants, IR.constants(model_file), model_file.parent.name)
    model = core.read_model(model_file)
    for constant in model.get_ordered_ops():
        name = constant.get_friendly_name()
        if constant.get_type_name() != "Constant" or name not in constants:
            continue
        shape, kind = constant.get_output_shape(0), constant.get_element_type()
        tensor = ov.Tensor(constants[name], ov.Shape(list(shape)), kind)
        replaced = ov.op.Constant(tensor, shared_memory=True)
        replaced.set_friendly_name(name)
        for reader in constant.output(0).get_target_inputs():
            reader.replace_source_output(replaced.output(0))
    if is_stored(model_file):
        as_run(model)
    return model


def _hand_over(model: Any, names: Collection[str], compute: str) -> None:
    """Has inputs and outputs of these names be of the type to compute in.

    In fp32 they would keep in fp32 what leads to an output, which a CPU rounds within a whole graph.
    """
    import openvino as ov
    import openvino.opset13 as ops

    kind = {"bf16": "bf16", "fp16": "f16"}.get(compute)
    if kind is None or not names:
        return
    wide = ov.Type.f32
    for parameter in model.get_parameters():
        port = parameter.output(0)
        if port.get_element_type() == wide and not port.get_names().isdisjoint(names):
            readers = port.get_target_inputs()
            parameter.set_element_type(getattr(ov.Type, kind))
            widened = ops.convert(parameter, "f32")
            for reader in readers:
                reader.replace_source_output(widened.output(0))
    for result in model.get_results():
        port = result.input(0).get_source_output()
        own = port.get_names()
        if port.get_element_type() == wide and not own.isdisjoint(names):
            narrowed = ops.convert(port, kind)
            port.get_tensor().set_names(set())
            narrowed.output(0).get_tensor().set_names(own)
            result.input(0).replace_source_output(narrowed.output(0))
    model.validate_nodes_and_infer_types()


def _config(core: Any, device: str, compute: str) -> dict[str, Any]:
    """How graphs are compiled for the device."""
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **hint(device, compute)}
    if _DYNAMIC in core.get_property(device, "SUPPORTED_PROPERTIES"):
        config[_DYNAMIC] = 0
    if device == "CPU" and (count := threads()) is not None:
        config["INFERENCE_NUM_THREADS"] = count
    return config


def _compiled_as_run(
    core: Any, model_file: Path, device: str, config: Mapping[str, Any], cache_dir: Path | None
) -> Any:
    """Compiles the form of a graph that is run; see `targets.openvino.stored_form`.

    OpenVINO's own cache is for files alone: what was compiled of a graph that was changed is kept here, like there
    without weights; and what it reads again of a file with constants beyond int32 is another graph (`_narrowed`).
    """
    import openvino as ov

    kept = dict(config)
    if cache_dir is not None and "EXPORT_IMPORT" in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        kept |= {"CACHE_MODE": "OPTIMIZE_SIZE", "WEIGHTS_PATH": str(model_file.with_suffix(".bin"))}
        facts = (
            ov.__version__,
            device,
            core.get_property(device, "FULL_DEVICE_NAME"),
            sorted(config.items()),
            "narrowed",
        )
        blob = cache_dir / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.blob"
        # One that another version of a driver made is refused: it is made again.
        with suppress(OSError, RuntimeError):
            return core.import_model(blob.read_bytes(), device, kept)
    model = core.read_model(model_file)
    if is_stored(model_file):
        as_run(model)
    _narrowed(model)
    compiled = core.compile_model(model, device, kept)
    if kept != config:
        with suppress(OSError, RuntimeError):  # A cache that cannot be written costs time, not function.
            blob.parent.mkdir(parents=True, exist_ok=True)
            temporary = blob.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            temporary.write_bytes(compiled.export_model().getvalue())
            temporary.replace(blob)
    return compiled


def _narrowed(model: Any) -> None:
    """Holds whole numbers to int32, in which a CPU computes: "to the end" of a slice is the largest int64.

    Of a blob without weights, OpenVINO 2026.4 takes the lower half of the file's int64, where a compile takes the
    nearest int32: the end becomes -1, and a slice loses its last entry.
    """
    import numpy as np
    import openvino as ov
    import openvino.opset13 as ops

    limits = np.iinfo(np.int32)
    for constant in model.get_ordered_ops():
        if constant.get_type_name() != "Constant" or constant.get_element_type() != ov.Type.i64:
            continue
        values = constant.data
        if values.size and (values.max() > limits.max or values.min() < limits.min):
            held = ops.constant(np.clip(values, limits.min, limits.max), ov.Type.i64)
            for reader in constant.output(0).get_target_inputs():
                reader.replace_source_output(held.output(0))


# Kind of device -> what it computes in, where its capabilities say so; what it is best at first. Arithmetic in fp16 on
# a CPU is there for who asks: OpenVINO's kernels are made for bf16, whose range is fp32's.
PREFERRED = {"CPU": ("bf16", "fp32", "fp16"), "GPU": ("fp16", "fp32", "bf16")}
# fp16 is all that an NPU has, and it refuses a hint.
ONLY_FP16 = "NPU"


def computes(device: str, capabilities: Collection[str]) -> tuple[str, ...]:
    """`Device.computes` of the device that OpenVINO calls `device` ("CPU", "GPU.0").

    A CPU without bf16 instructions would emulate them some twenty times slower than fp32: it does not list them.

    Args:
        capabilities: its OPTIMIZATION_CAPABILITIES ("BF16", "FP16", ...).
    """
    kind = device.partition(".")[0]
    if kind == ONLY_FP16:
        return ("fp16",)
    known = PREFERRED.get(kind, ("fp32",))
    return tuple(compute for compute in known if compute == "fp32" or compute.upper() in capabilities)


def hint(device: str, compute: str) -> dict[str, Any]:
    """The property that has `device` compute in `compute`."""
    if device.partition(".")[0] == ONLY_FP16:
        return {}
    return {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[compute]}


# Processors with VNNI would round the activations in front of quantized weights to 8 bits, in groups of 32: an error of
# 0.5 % that a graph did not ask for. Those that do have quantization of their own.
_DYNAMIC = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


class OpenVinoSession:
    """One compiled model and one request. Inputs are lent to it, outputs are copied out of it."""

    def __init__(self, model: Any, name: str, device: str, constants: Replaced | None = None) -> None:
        """
        Args:
            constants: what is lent to the model for as long as it is open: OpenVINO does not keep arrays alive.
        """
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

    def release(self) -> None:
        """Gives back the memory that calls computed in, until the next."""
        if self._model is not None:
            self._model.release_memory()

    def close(self) -> None:
        """Frees the request and the compiled model; twice is harmless."""
        self._request = None
        self._model = None
        self._constants = None


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
