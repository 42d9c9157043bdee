"""The layers of an OpenVINO IR as a graph: what reads what, and parts of it as a graph of their own."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from xml.etree import ElementTree

from runtimes.sessions.openvino_operators import onnx_name
from runtimes.sessions.session_contract import GraphNode, Structure
from targets.openvino.stored_form import KEY as INFORMATION
from targets.openvino.stored_form import RESULT

# IR's names of the types of ports -> those of Parameters.
_ELEMENT_TYPES = {"FP32": "f32", "FP16": "f16", "BF16": "bf16", "FP64": "f64", "BOOL": "boolean"}
_CONSTANT, _PARAMETER, _RESULT = "Const", "Parameter", "Result"
_CONVOLUTIONS = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"}
)
_WEIGHTS = "1"
"""The port of a convolution that its weights come to."""
_NARROW = re.compile(r"(?:[iu]|nf|f)[1248](?:e\dm\d)?")
"""Element types of fewer than 16 bits."""


class IrGraph:
    """The tree of an IR's file, which `cut`, `store_weights` and `drop_unread` change."""

    def __init__(self, net: ElementTree.Element) -> None:
        layers, edges = net.find("layers"), net.find("edges")
        assert layers is not None and edges is not None
        self._net, self._layers, self._edges = net, layers, edges
        self._by_id = {layer.attrib["id"]: layer for layer in layers}
        self._sources: dict[str, dict[str, tuple[str, str]]] = {}  # layer -> its port -> source and its port
        self._fresh: set[str] = set()  # Constants that lie in a new file of weights.
        for edge in edges:
            at = self._sources.setdefault(edge.attrib["to-layer"], {})
            at[edge.attrib["to-port"]] = edge.attrib["from-layer"], edge.attrib["from-port"]

    @cached_property
    def _constant(self) -> frozenset[str]:
        """Layers that are computed of constants alone."""
        constant: set[str] = set()
        for number, layer in self._by_id.items():  # in the order of the file, in which they can run
            sources = [source for source, _ in self._sources.get(number, {}).values()]
            kind = layer.attrib.get("type")
            if kind == _CONSTANT or (kind != _PARAMETER and sources and set(sources) <= constant):
                constant.add(number)
        return frozenset(constant)

    @cached_property
    def _inputs(self) -> dict[str, tuple[str, str]]:
        """Name of each of the graph's inputs -> its layer and port."""
        return {
            layer.attrib["name"]: (number, port.attrib["id"])
            for number, layer in self._by_id.items()
            if layer.attrib.get("type") == _PARAMETER
            for port in layer.iterfind("output/port")
        }

    @cached_property
    def _outputs(self) -> dict[str, tuple[str, str]]:
        """Name of each of the graph's outputs -> the layer and port that make it."""
        outputs = {}
        for number, layer in self._by_id.items():
            if layer.attrib.get("type") == _RESULT:
                (source,) = self._sources[number].values()
                names, own = port_names(self._port(*source)), layer.attrib["name"].removesuffix(RESULT)
                outputs[own if own in names else names[-1]] = source
        return outputs

    def _port(self, layer: str, port: str) -> ElementTree.Element:
        return next(p for p in self._by_id[layer].iterfind("output/port") if p.attrib["id"] == port)

    def _ports(self) -> Iterator[tuple[str, ElementTree.Element]]:
        for number, layer in self._by_id.items():
            for port in layer.iterfind("output/port"):
                yield number, port

    def structure(self, widened: int = 0) -> Structure:
        """The graph's nodes; see `runtimes.sessions.session_contract.Structure`.

        Args:
            widened: bytes for each element of the weights of `narrow_convolutions`; 0 for as the file stores them.
        """
        own = {place: name for name, place in (*self._inputs.items(), *self._outputs.items())}

        def key(place: tuple[str, str]) -> str:
            return own.get(place, ":".join(place))

        nodes = [
            GraphNode(
                onnx_name(layer.attrib["type"]),
                tuple(key(place) for _, place in sorted(self._sources.get(number, {}).items(), key=_number)),
                tuple(key((number, port.attrib["id"])) for port in layer.iterfind("output/port")),
                _numbers(layer),
            )
            for number, layer in self._by_id.items()
            if number not in self._constant and layer.attrib["type"] not in (_PARAMETER, _RESULT)
        ]
        shapes = {key((number, port.attrib["id"])): _shape(port) for number, port in self._ports()}
        weights = {
            key((number, port.attrib["id"])): self._bytes(number)
            for number, port in self._ports()
            if number in self._constant
        }
        for number in self.narrow_convolutions() if widened else ():
            place = self._sources[number][_WEIGHTS]
            weights[key(place)] = math.prod(dim or 0 for dim in _shape(self._port(*place))) * widened
        return Structure(tuple(nodes), shapes, weights, tuple(self._inputs), tuple(self._outputs))

    def _bytes(self, number: str) -> int:
        """Of the constants that a layer is computed of."""
        data = self._by_id[number].find("data")
        if self._by_id[number].attrib["type"] == _CONSTANT:
            return 0 if data is None else int(data.attrib.get("size", 0))
        return sum(self._bytes(source) for source, _ in self._sources.get(number, {}).values())

    def cut(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Leaves what makes `outputs` of `inputs`."""
        places = {name: self._place(name) for name in (*inputs, *outputs)}
        starts = {places[name]: name for name in inputs}
        kept: set[str] = set()
        pending = [places[name][0] for name in outputs if places[name] not in starts]
        while pending:
            number = pending.pop()
            if number in kept:
                continue
            kept.add(number)
            sources = self._sources.get(number, {}).values()
            pending += [source for source, port in sources if (source, port) not in starts]
        fresh = max(map(int, self._by_id)) + 1
        parameters = {}
        for place, name in starts.items():
            if self._by_id[place[0]].attrib["type"] == _PARAMETER:
                kept.add(place[0])
                continue
            self._add(fresh, name, _PARAMETER, self._port(*place), "output")
            parameters[place] = str(fresh)
            fresh += 1
        for edge in list(self._edges):
            place = edge.attrib["from-layer"], edge.attrib["from-port"]
            if edge.attrib["to-layer"] not in kept:
                self._edges.remove(edge)
            elif place in parameters:
                edge.set("from-layer", parameters[place])
                edge.set("from-port", "0")
        for name in outputs:
            number, port = places[name]
            element = self._port(number, port)
            self._add(fresh, f"{name}/result", _RESULT, element, "input")
            element.set("names", name.replace(",", "\\,"))
            way = {"from-layer": number, "from-port": port, "to-layer": str(fresh), "to-port": "0"}
            ElementTree.SubElement(self._edges, "edge", way)
            fresh += 1
        for number, element in self._by_id.items():
            if number not in kept:
                self._layers.remove(element)
        remaining = {layer.attrib["name"] for layer in self._layers}
        for names in self._net.iterfind(f"rt_info/{INFORMATION}/*"):
            # What the file says of nodes by their names (`targets.openvino.stored_form`).
            listed = json.loads(names.attrib["value"])
            names.set("value", json.dumps([name for name in listed if name in remaining]))

    def narrow_convolutions(self) -> dict[str, str]:
        """Convolutions whose weights are computed of constants of fewer than 16 bits: number -> name."""
        return {
            number: layer.attrib["name"]
            for number, layer in self._by_id.items()
            if layer.attrib["type"] in _CONVOLUTIONS and self._is_narrow(self._sources[number][_WEIGHTS][0])
        }

    def _is_narrow(self, number: str) -> bool:
        if number not in self._constant:
            return False
        data = self._by_id[number].find("data")
        if self._by_id[number].attrib["type"] == _CONSTANT:
            return data is not None and bool(_NARROW.fullmatch(data.attrib.get("element_type", "")))
        return any(self._is_narrow(source) for source, _ in self._sources.get(number, {}).values())

    def store_weights(self, number: str, element_type: str, offset: int, size: int) -> None:
        """Has a convolution read its weights from a place in a new file of weights, widened to its own type.

        Args:
            number: of `narrow_convolutions`.
            element_type: f32, or a narrower type in which OpenVINO keeps weights until they are packed.
        """
        name, port = self._by_id[number].attrib["name"], self._port(*self._sources[number][_WEIGHTS])
        dims = port.findall("dim")
        data = {
            "element_type": element_type,
            "shape": ", ".join(dim.text or "" for dim in dims),
            "offset": str(offset),
            "size": str(size),
        }
        precision = next(ir for ir, own in _ELEMENT_TYPES.items() if own == element_type)
        fresh = max(map(int, self._by_id)) + 1
        places = [self._layer(fresh, f"{name}/weights", _CONSTANT, data, (), precision, dims)]
        if element_type != "f32":
            wide = {"destination_type": "f32"}
            place = self._layer(fresh + 1, f"{name}/wide", "Convert", wide, (precision,), "FP32", dims)
            # Without the mark OpenVINO widens it when it compiles.
            info = ElementTree.Element("rt_info")
            ElementTree.SubElement(info, "attribute", {"name": "decompression", "version": "0"})
            self._by_id[place[0]].insert(1, info)
            self._edge(places[0], (place[0], "0"))
            places.append(place)
        # The file is read in its order.
        for at, (layer, _) in enumerate(places):
            self._layers.insert(at, self._by_id[layer])
        for edge in self._edges:
            if (edge.attrib["to-layer"], edge.attrib["to-port"]) == (number, _WEIGHTS):
                edge.set("from-layer", places[-1][0])
                edge.set("from-port", places[-1][1])
        self._fresh.add(places[0][0])

    def drop_unread(self) -> list[dict[str, str]]:
        """Takes layers away that lead to no result.

        Returns:
            Of each constant left that `store_weights` did not write: the attributes of its data, to be changed.
        """
        sources: dict[str, list[str]] = {}
        for edge in self._edges:
            sources.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
        read: set[str] = set()
        pending = [n for n, layer in self._by_id.items() if layer.attrib["type"] in (_RESULT, _PARAMETER)]
        while pending:
            number = pending.pop()
            if number not in read:
                read.add(number)
                pending += sources.get(number, [])
        for edge in list(self._edges):
            if edge.attrib["to-layer"] not in read:
                self._edges.remove(edge)
        constants = []
        for number, layer in self._by_id.items():
            data = layer.find("data")
            if number not in read:
                self._layers.remove(layer)
            elif layer.attrib["type"] == _CONSTANT and number not in self._fresh and data is not None:
                constants.append(data.attrib)
        return constants

    def _layer(
        self,
        number: int,
        name: str,
        kind: str,
        data: Mapping[str, str],
        inputs: Sequence[str],
        output: str,
        dims: Sequence[ElementTree.Element],
    ) -> tuple[str, str]:
        """A layer, not yet in the file, whose inputs (by their precisions) and output have these dimensions.

        Returns:
            The place of its output.
        """
        attributes = {"id": str(number), "name": name, "type": kind, "version": "opset1"}
        layer = ElementTree.Element("layer", attributes)
        ElementTree.SubElement(layer, "data", dict(data))
        ports = [*(("input", precision) for precision in inputs), ("output", output)]
        for port, (side, precision) in enumerate(ports):
            entry = {"id": str(port), "precision": precision}
            ElementTree.SubElement(ElementTree.SubElement(layer, side), "port", entry).extend(dims)
        self._by_id[str(number)] = layer
        return str(number), str(len(inputs))

    def _edge(self, source: tuple[str, str], reader: tuple[str, str]) -> None:
        way = {"from-layer": source[0], "from-port": source[1], "to-layer": reader[0], "to-port": reader[1]}
        ElementTree.SubElement(self._edges, "edge", way)

    def _place(self, name: str) -> tuple[str, str]:
        place = self._inputs.get(name) or self._outputs.get(name)
        if place is None:
            layer, _, port = name.partition(":")
            place = layer, port
        return place

    def _add(self, number: int, name: str, kind: str, like: ElementTree.Element, side: str) -> None:
        """Adds a Parameter or Result of the type and shape of a port."""
        attributes = {"id": str(number), "name": name, "type": kind, "version": "opset1"}
        layer = ElementTree.Element("layer", attributes)
        typed = {"precision": like.attrib["precision"]}
        port = {"id": "0", **typed}
        if kind == _PARAMETER:
            port["names"] = name.replace(",", "\\,")
            shape = ",".join("?" if dim is None else str(dim) for dim in _shape(like))
            precision = like.attrib["precision"]
            data = {"shape": shape, "element_type": _ELEMENT_TYPES.get(precision, precision.lower())}
            ElementTree.SubElement(layer, "data", data)
        entry = ElementTree.SubElement(ElementTree.SubElement(layer, side), "port", port)
        entry.extend(like.findall("dim"))
        # Parameters come first: the file is read in its order.
        if kind == _PARAMETER:
            self._layers.insert(0, layer)
        else:
            self._layers.append(layer)


def _number(item: tuple[str, tuple[str, str]]) -> int:
    return int(item[0])


def port_names(port: ElementTree.Element) -> list[str]:
    """The tensor names of an output; a comma in one is written with a backslash."""
    text = port.attrib.get("names", "").replace("\\,", "\0")
    return [name.replace("\0", ",") for name in text.split(",") if name]


def _shape(port: ElementTree.Element) -> tuple[int | None, ...]:
    sizes = (int(dim.text or -1) for dim in port.iterfind("dim"))
    return tuple(None if size < 0 else size for size in sizes)


def _numbers(layer: ElementTree.Element) -> Mapping[str, float]:
    """The attributes of a layer that are numbers; of lists of them the largest."""
    data = layer.find("data")
    numbers = {}
    for name, text in () if data is None else data.attrib.items():
        with suppress(ValueError):
            numbers[name] = max(float(part) for part in text.split(","))
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
