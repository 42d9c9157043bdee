"""The form that a graph has in the file, which other projects' loaders open, and the form in which ours runs it.

OpenVINO GenAI hands a timestep over as an int64 [1], and takes a denoiser of one output alone. Our sessions hand it
over as a float32 number, since half of all schedulers make fractions, and add outputs that keep angles in fp32. So the
file holds the first form, with what the second one needs in the model's information, and `as_run` makes that of it: the
graph between is the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEY = "latentc"
"""Of the information in a file that is ours: lists of nodes' names."""
_NUMBERS = "numbers"
_ANGLES = "angles"
_TAIL = 1 << 18
"""Bytes at a file's end that hold its information: names of some thousand nodes at most."""

EXTRA = "latentc_fp32_"
"""How tensor names of outputs begin that nobody reads; see `keep_angles`."""

RESULT = "/sink_port_0"
"""Behind a result's name in the name of the node that gives it; how OpenVINO's ONNX frontend calls such nodes."""

# Operators between which activations lie, which are not to be outputs.
_PRODUCTS = frozenset({"MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData", "Einsum"})


def store_whole_numbers(model: Any) -> None:
    """Makes each float32 input without axes an int64 of shape [1], which is widened and loses its axis at once."""
    import openvino as ov
    import openvino.opset13 as ops

    names: list[str] = []
    for parameter in model.get_parameters():
        shape = parameter.get_partial_shape()
        if parameter.get_element_type() != ov.Type.f32 or shape.rank.is_dynamic or len(shape) != 0:
            continue
        name = parameter.get_friendly_name()
        tensor_names = parameter.output(0).get_names()
        stored = ops.parameter([1], ov.Type.i64, name=name)
        wide = ops.convert(stored, "f32", name=f"{name}/wide")
        no_axes = ov.op.Constant(ov.Type.i64, ov.Shape([0]), [])
        # A name of its own: OpenVINO numbers what has none across the process, and files would differ.
        no_axes.set_friendly_name(f"{name}/no_axes")
        number = ops.reshape(wide, no_axes, False, name=f"{name}/number")
        for reader in parameter.output(0).get_target_inputs():
            reader.replace_source_output(number.output(0))
        model.replace_parameter(model.get_parameter_index(parameter), stored)
        parameter.output(0).get_tensor().set_names({f"{name}/replaced"})
        stored.output(0).get_tensor().set_names(tensor_names)
        names.append(name)
    if names:
        model.validate_nodes_and_infer_types()
        model.set_rt_info(json.dumps(names), [KEY, _NUMBERS])


def keep_angles(model: Any) -> frozenset[str]:
    """Has the sines and cosines of inputs (timesteps, positions) computed in fp32, whatever the rest is computed in.

    A narrow type would round the angles: a timestep of 999 times a frequency is off by up to 2 radians in bf16. For
    bf16, a CPU leaves in fp32 what leads to an output with no product between: the sines become outputs, behind the
    graph's own, when the graph is opened (`as_run`). For fp16 there is a mark in the file.

    Returns:
        Names of the nodes to be marked.
    """
    ordered = model.get_ordered_ops()
    sources = {
        op.get_friendly_name(): [port.get_source_output().get_node() for port in op.inputs()]
        for op in ordered
    }
    behind: set[str] = set()  # Nodes that a product leads to.
    for op in ordered:
        name = op.get_friendly_name()
        if op.get_type_name() in _PRODUCTS or any(s.get_friendly_name() in behind for s in sources[name]):
            behind.add(name)
    angles = [
        op for op in ordered if op.get_type_name() in ("Sin", "Cos") and op.get_friendly_name() not in behind
    ]
    inner = [
        op.get_friendly_name()
        for op in angles
        if all(reader.get_node().get_type_name() != "Result" for reader in op.output(0).get_target_inputs())
    ]
    if inner:
        model.set_rt_info(json.dumps(inner), [KEY, _ANGLES])
    marked: set[str] = set()
    pending = list(angles)
    while pending:
        op = pending.pop()
        if op.get_type_name() not in ("Parameter", "Constant") and op.get_friendly_name() not in marked:
            marked.add(op.get_friendly_name())
            pending += sources[op.get_friendly_name()]
    return frozenset(marked)


def is_stored(model_file: Path) -> bool:
    """Whether an IR has the form of a file, which `as_run` must change. Its information is at its end."""
    with model_file.open("rb") as file:
        file.seek(max(0, model_file.stat().st_size - _TAIL))
        return f"<{KEY}>".encode() in file.read()


def as_run(model: Any) -> None:
    """Changes a model that was read from a file: its numbers are float32 without axes, its angles are outputs.

    Raises:
        ValueError: the model's information does not fit its graph.
    """
    import openvino as ov
    import openvino.opset13 as ops

    parameters = {p.get_friendly_name(): p for p in model.get_parameters()}
    for name in _names(model, _NUMBERS):
        stored = parameters.get(name)
        wide = None if stored is None else _only_reader(stored, "Convert")
        number = None if wide is None else _only_reader(wide, "Reshape")
        if stored is None or number is None:
            raise ValueError(f"its input '{name}' is not stored as a number")
        parameter = ops.parameter([], ov.Type.f32, name=name)
        tensor_names = stored.output(0).get_names()
        for reader in number.output(0).get_target_inputs():
            reader.replace_source_output(parameter.output(0))
        model.replace_parameter(model.get_parameter_index(stored), parameter)
        stored.output(0).get_tensor().set_names({f"{name}/replaced"})
        parameter.output(0).get_tensor().set_names(tensor_names)
    if inner := _names(model, _ANGLES):
        nodes = {op.get_friendly_name(): op for op in model.get_ops()}
        if missing := [name for name in inner if name not in nodes]:
            raise ValueError(f"it has no node '{missing[0]}'")
        ports = [nodes[name].output(0) for name in inner]
        for count, port in enumerate(ports):
            port.get_tensor().add_names({f"{EXTRA}{count}"})
        model.add_outputs(ports)
    model.validate_nodes_and_infer_types()


def _names(model: Any, key: str) -> list[str]:
    path = [KEY, key]
    if not model.has_rt_info(path):
        return []
    names = json.loads(model.get_rt_info(path).astype(str))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its information '{KEY}/{key}' is no list of names")
    return names


def _only_reader(node: Any, kind: str) -> Any:
    """The one node that reads `node`'s output, if it is of this kind; None otherwise."""
    readers = list(node.output(0).get_target_inputs())
    reader = readers[0].get_node() if len(readers) == 1 else None
    return reader if reader is not None and reader.get_type_name() == kind else None
