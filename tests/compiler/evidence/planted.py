"""A tiny text encoder, lowered for a target, and faults that are planted in single nodes of its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx

from artifacts.manifest import DimRange
from artifacts.progress import silent
from compiler.capture.capture import capture
from compiler.capture.declared_sizes import SizeRange
from compiler.capture.samples import order, points
from compiler.evidence.graph_evidence import GraphCheckJob
from compiler.evidence.where import Locator, Request
from compiler.export.graph_export import export_graph
from compiler.road import Road
from compiler.source import open_model
from targets import target_table as targets
from targets.target_contract import Context

COMPONENT, PRECISION = "text_encoder", "fp16"


@dataclass(frozen=True)
class Lowered:
    """A graph's files beside what they were made of."""

    folder: Path
    request: Request

    @property
    def model_file(self) -> Path:
        return Path(self.request.check.model_file)


class Model:
    """The text encoder of a diffusers folder, captured once."""

    def __init__(self, folder: Path) -> None:
        self.source = open_model(str(folder))
        side = DimRange(min=32, max=32)
        self.captured = capture(self.source, (), SizeRange(side, side), DimRange(min=1, max=1), {}, silent)
        self.method = next(m for m in self.captured.methods if m.component == COMPONENT)

    def export(self) -> Any:
        weights = self.captured.weights[COMPONENT]
        return export_graph(self.source.component(COMPONENT), self.method, weights)

    def lowered(self, name: str, folder: Path, **changes: Any) -> Lowered:
        """The graph for the target called `name`, in `folder`; `changes` are the request's."""
        target = targets.get(name)
        road = Road.to(target, PRECISION)
        exported, passed = Locator(self.export, road, silent)._write(folder)
        (folder / COMPONENT).mkdir()
        written = target.lower(
            road.run(self.export()).model,
            target.options(),
            folder / COMPONENT,
            Context(dims=self.method.dims),
        )
        (inputs,) = points(self.method, order(self.method)[:1])
        np.savez(folder / "0.npz", **inputs)
        component = self.source.component(COMPONENT)
        check = GraphCheckJob(
            target=name, device="cpu", precision=PRECISION, model_file=str(folder / COMPONENT / written.model_file),
            built=written.built, component=COMPONENT, library=component.library, class_name=component.class_name,
            folder=str(component.folder), method=self.method.method, arguments=self.method.arguments,
            inputs=self.method.inputs, outputs=self.method.outputs, state=self.method.state,
            points=(str(folder / "0.npz"),),
        )  # fmt: skip
        fields = {
            "check": check, "compute": "fp32", "limit": 1e-3, "folder": COMPONENT, "exported": str(exported),
            "passed": str(passed), "schemes": {},
        }  # fmt: skip
        return Lowered(folder, Request(**(fields | changes)))


def weights(model_file: Path) -> list[str]:
    """The names of the weights in half precision, in the file's order."""
    if model_file.suffix == ".onnx":
        graph = onnx.load(str(model_file), load_external_data=False).graph
        return [tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    return [layer.attrib["name"] for layer, _ in _half(model_file)]


def scale(model_file: Path, weight: str, factor: float) -> None:
    """Multiplies one weight where it lies."""
    if model_file.suffix == ".onnx":
        model = onnx.load(str(model_file))
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
        scaled = onnx.numpy_helper.to_array(tensor) * np.float16(factor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(scaled, weight))
        onnx.save(model, str(model_file))
        return
    data = next(data for layer, data in _half(model_file) if layer.attrib["name"] == weight)
    file, offset, size = model_file.with_suffix(".bin"), int(data.attrib["offset"]), int(data.attrib["size"])
    stored = bytearray(file.read_bytes())
    scaled = np.frombuffer(bytes(stored[offset : offset + size]), np.float16) * np.float16(factor)
    stored[offset : offset + size] = scaled.tobytes()
    file.write_bytes(stored)


def _half(model_file: Path) -> Iterator[tuple[ElementTree.Element, ElementTree.Element]]:
    for layer in ElementTree.parse(model_file).iterfind("layers/layer"):
        data = layer.find("data")
        if layer.attrib["type"] == "Const" and data is not None and data.attrib["element_type"] == "f16":
            yield layer, data


def change_node(model_file: Path, node: str) -> None:
    """Makes another operator of one node."""
    if model_file.suffix == ".onnx":
        model = onnx.load(str(model_file), load_external_data=False)
        changed = next(entry for entry in model.graph.node if entry.name == node)
        changed.op_type = REPLACED[changed.op_type]
        model_file.write_bytes(model.SerializeToString())
        return
    tree = ElementTree.parse(model_file)
    layer = next(layer for layer in tree.iterfind("layers/layer") if layer.attrib["name"] == node)
    layer.set("type", REPLACED[layer.attrib["type"]])
    tree.write(model_file)


REPLACED = {"Sigmoid": "Tanh", "Mul": "Add", "Multiply": "Add"}
"""Operator -> one of the same inputs and shapes that computes something else."""
