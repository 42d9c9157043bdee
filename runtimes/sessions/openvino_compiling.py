"""How OpenVINO compiles a graph: as it is run, for a device, for sizes that are known, and from what it kept."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from artifacts.disk import write_cached
from runtimes.sessions.common import threads
from runtimes.sessions.exact_sizes import Shapes
from runtimes.sessions.file_constants import Replaced, require_constants
from targets.openvino.stored_form import as_run, is_stored

ONLY_FP16 = "NPU"
"""fp16 is all that it has, and it refuses a hint."""


FOR_SHAPES: Mapping[str, Any] = {"SNIPPETS_MODE": "DISABLE"}
"""For graphs whose sizes are known. OpenVINO 2026.4 ends the process when it looks for what a generated kernel could
take of a group norm that a split's result scales (Kandinsky 2.2, DeepFloyd); without, a step takes
1.04 of the time in bf16 and 1.14 in fp32."""


class StoredGraph:
    """The graph of a file in the form in which it is run (`targets.openvino.stored_form`), before it is compiled."""

    def __init__(self, core: Any, model_file: Path, constants: Replaced) -> None:
        """
        Args:
            constants: in the places of the file's own; they are not copied. The other weights are mapped.
        """
        self.file = model_file
        self._core = core
        self._constants = constants
        self._model: Any = None

    def read(self) -> Any:
        """The model, which is this object's own; read once.

        Raises:
            LatentcError: there is no such constant.
            RuntimeError: OpenVINO refuses the file.
        """
        if self._model is None:
            model = self._core.read_model(self.file)
            if self._constants:
                _exchange(model, self._constants, self.file)
            if is_stored(self.file):
                as_run(model)
            if not self._constants:
                _narrowed(model)
            self._model = model
        return self._model

    def for_calls(self, shapes: Shapes | None) -> Any:
        """The model for calls of these shapes, or of whatever the file takes. Weights are shared with `read`'s."""
        if shapes is None:
            return self.read()
        model = self.read().clone()
        own = {name: port for port in model.inputs for name in port.get_names()}
        model.reshape({own[name]: list(shape) for name, shape in shapes.items() if name in own})
        return model


def compiled(
    core: Any,
    graph: StoredGraph,
    device: str,
    config: Mapping[str, Any],
    cache_dir: Path | None,
    shapes: Shapes | None,
) -> Any:
    """The compiled model, from what was kept of it where that can be.

    OpenVINO's own cache is for files alone: what was compiled of a graph that was changed is kept here, like there
    without weights; and what it reads again of a file with constants beyond int32 is another graph (`_narrowed`).
    """
    import openvino as ov

    if shapes is not None:
        config = {**config, **FOR_SHAPES}
    kept = dict(config)
    if cache_dir is not None and "EXPORT_IMPORT" in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        kept |= {"CACHE_MODE": "OPTIMIZE_SIZE", "WEIGHTS_PATH": str(graph.file.with_suffix(".bin"))}
        facts = (
            ov.__version__,
            device,
            core.get_property(device, "FULL_DEVICE_NAME"),
            sorted(config.items()),
            "narrowed",
            graph.file.with_suffix(".bin").stat().st_size,  # where the weights lie, in which of two files
            None if shapes is None else sorted(shapes.items()),
        )
        blob = cache_dir / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.blob"
        # One that another version of a driver made is refused: it is made again.
        with suppress(OSError, RuntimeError):
            return core.import_model(blob.read_bytes(), device, kept)
    model = core.compile_model(graph.for_calls(shapes), device, kept)
    if kept != config:
        with suppress(RuntimeError):  # A driver that exports nothing costs time, not function.
            write_cached(blob, model.export_model().getvalue())
    return model


def _exchange(model: Any, constants: Replaced, model_file: Path) -> None:
    """Puts constants in the places of the model's own, which are not copied."""
    import openvino as ov

    nodes = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    stored = {node.get_friendly_name(): node for node in nodes}
    sizes = {name: node.get_byte_size() for name, node in stored.items()}
    require_constants(constants, sizes, model_file.parent.name)
    for name in constants:
        constant = stored[name]
        shape, kind = constant.get_output_shape(0), constant.get_element_type()
        tensor = ov.Tensor(constants[name], ov.Shape(list(shape)), kind)
        replaced = ov.op.Constant(tensor, shared_memory=True)
        replaced.set_friendly_name(name)
        for reader in constant.output(0).get_target_inputs():
            reader.replace_source_output(replaced.output(0))


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
            clipped = ops.constant(np.clip(values, limits.min, limits.max), ov.Type.i64)
            for reader in constant.output(0).get_target_inputs():
                reader.replace_source_output(clipped.output(0))


def hand_over(model: Any, names: Collection[str], compute: str) -> None:
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


def config_of(core: Any, device: str, compute: str) -> dict[str, Any]:
    """How graphs are compiled for the device."""
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **hint(device, compute)}
    if _DYNAMIC in core.get_property(device, "SUPPORTED_PROPERTIES"):
        config[_DYNAMIC] = 0
    if device == "CPU" and (count := threads()) is not None:
        config["INFERENCE_NUM_THREADS"] = count
    return config


def hint(device: str, compute: str) -> dict[str, Any]:
    """The property that has `device` compute in `compute`."""
    if device.partition(".")[0] == ONLY_FP16:
        return {}
    return {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[compute]}


# Processors with VNNI would round the activations in front of quantized weights to 8 bits, in groups of 32: an error of
# 0.5 % that a graph did not ask for. Those that do have quantization of their own.
_DYNAMIC = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
