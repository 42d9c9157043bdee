"""OpenVINO's IR looked into: what it stores, and copies of it in which inner values are outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from artifacts.errors import LatentcError
from runtimes.sessions.file_constants import StoredConstant
from runtimes.sessions.onnx_format import ONNX, SUFFIX, link_beside
from runtimes.sessions.openvino_graph import IrGraph, port_names
from runtimes.sessions.session_contract import Contents, Structure

# IR's names of the element types of constants -> NumPy's, or what is usual for those that NumPy lacks.
_TYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16", "boolean": "bool"}
# Layers that hold no value between nodes.
_ENDS = frozenset({"Const", "Result", "Parameter"})


class IrFormat:
    """`runtimes.sessions.session_contract.GraphFormat` of ``.xml`` with ``.bin`` files, and of ONNX files."""

    def values(self, model_file: Path) -> tuple[str, ...]:
        """Every tensor name of a layer's output that is none of the graph's outputs."""
        if model_file.suffix == SUFFIX:
            return ONNX.values(model_file)
        net = _parse(model_file)
        results = _result_sources(net)
        return tuple(
            name
            for layer, port in _ports(net)
            if layer.attrib.get("type") not in _ENDS
            and (layer.attrib.get("id"), port.attrib.get("id")) not in results
            for name in port_names(port)
        )

    def contents(self, model_file: Path) -> Contents:
        """The layers of type Const, and whether there is a FakeQuantize."""
        if model_file.suffix == SUFFIX:
            return ONNX.contents(model_file)
        counts: dict[str, int] = {}
        quantizes = False
        for layer in _parse(model_file).iterfind("layers/layer"):
            data = layer.find("data")
            quantizes |= layer.attrib.get("type") == "FakeQuantize"
            if layer.attrib.get("type") != "Const" or data is None:
                continue
            kind, shape = _typed_shape(data)
            counts[kind] = counts.get(kind, 0) + math.prod(shape)
        return Contents(counts, quantizes)

    def constants(self, model_file: Path) -> dict[str, StoredConstant]:
        """The layers of type Const, by their names."""
        if model_file.suffix == SUFFIX:
            return ONNX.constants(model_file)
        weights = model_file.with_suffix(".bin")
        stored = {}
        for layer in _parse(model_file).iterfind("layers/layer"):
            data = layer.find("data")
            if layer.attrib.get("type") == "Const" and data is not None:
                kind, shape = _typed_shape(data)
                offset, size = (int(data.attrib.get(name, "0")) for name in ("offset", "size"))
                stored[layer.attrib.get("name", "")] = StoredConstant(kind, shape, size, weights, offset)
        return stored

    def structure(self, model_file: Path, widened: int = 0) -> Structure:
        """Values are called "layer:port", by their numbers in the file; inputs and outputs by their tensor names.

        Args:
            widened: bytes of an element of weights that are opened wider than they are stored; see `IrGraph.structure`.
        """
        if model_file.suffix == SUFFIX:
            return ONNX.structure(model_file)
        return IrGraph(_parse(model_file)).structure(widened)

    def extract(self, model_file: Path, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """Puts a Parameter in the place of each input, and a Result behind each output."""
        if model_file.suffix == SUFFIX:
            return ONNX.extract(model_file, inputs, outputs)
        net = _parse(model_file)
        IrGraph(net).cut(inputs, outputs)
        return bytes(ElementTree.tostring(net, encoding="utf-8", xml_declaration=True))

    def with_outputs(self, model_file: Path, names: Sequence[str], folder: Path) -> Path:
        """Adds a Result behind each; its tensor is then called by the name asked for alone."""
        if model_file.suffix == SUFFIX:
            return ONNX.with_outputs(model_file, names, folder)
        net = _parse(model_file)
        layers, edges = net.find("layers"), net.find("edges")
        assert layers is not None and edges is not None
        places = {name: (layer, port) for layer, port in _ports(net) for name in port_names(port)}
        number = max((int(layer.attrib["id"]) for layer in layers), default=0)
        for name in names:
            layer, port = places[name]
            number += 1
            port.set("names", name.replace(",", "\\,"))
            result = ElementTree.SubElement(
                layers, "layer", {"id": str(number), "name": f"{name}/result", "type": "Result", "version": "opset1"}
            )  # fmt: skip
            entry = ElementTree.SubElement(
                ElementTree.SubElement(result, "input"), "port", {"id": "0", **_typed(port)}
            )
            entry.extend(port.findall("dim"))
            way = {
                "from-layer": layer.attrib["id"],
                "from-port": port.attrib["id"],
                "to-layer": str(number),
                "to-port": "0",
            }
            ElementTree.SubElement(edges, "edge", way)
        link_beside(model_file, folder)
        written = folder / model_file.name
        ElementTree.ElementTree(net).write(written, encoding="utf-8", xml_declaration=True)
        return written


def _typed_shape(data: ElementTree.Element) -> tuple[str, tuple[int, ...]]:
    """NumPy's name of the element type, and the shape, of a layer of type Const."""
    kind = data.attrib.get("element_type", "")
    signed = {"i": "int", "u": "uint"}.get(kind[:1])
    kind = _TYPES.get(kind) or (f"{signed}{kind[1:]}" if signed and kind[1:].isdigit() else kind)
    return kind, tuple(int(size) for size in data.attrib.get("shape", "").split(",") if size.strip())


def _parse(model_file: Path) -> ElementTree.Element:
    """
    Raises:
        LatentcError: it is no IR.
    """
    try:
        net = ElementTree.parse(model_file).getroot()
    except ElementTree.ParseError as error:
        raise LatentcError(
            f"{model_file} is not an OpenVINO model: {error}.", "See: latentc verify ARTIFACT"
        ) from error
    if net.tag != "net" or net.find("layers") is None or net.find("edges") is None:
        raise LatentcError(f"{model_file} is not an OpenVINO model.", "See: latentc verify ARTIFACT")
    return net


def _ports(net: ElementTree.Element) -> Iterator[tuple[ElementTree.Element, ElementTree.Element]]:
    """Each layer with each of its outputs."""
    for layer in net.iterfind("layers/layer"):
        for port in layer.iterfind("output/port"):
            yield layer, port


def _typed(port: ElementTree.Element) -> dict[str, str]:
    return {"precision": port.attrib["precision"]} if "precision" in port.attrib else {}


def _result_sources(net: ElementTree.Element) -> set[tuple[str | None, str | None]]:
    """The outputs that lead to a Result: ids of the layer and of its port."""
    results = {
        layer.attrib.get("id")
        for layer in net.iterfind("layers/layer")
        if layer.attrib.get("type") == "Result"
    }
    return {
        (edge.attrib.get("from-layer"), edge.attrib.get("from-port"))
        for edge in net.iterfind("edges/edge")
        if edge.attrib.get("to-layer") in results
    }


IR = IrFormat()
