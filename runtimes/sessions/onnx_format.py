"""ONNX files looked into: what they store, and copies of them in which inner values are outputs."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from artifacts.errors import LatentcError
from runtimes.sessions.file_constants import Replaced, StoredConstant
from runtimes.sessions.session_contract import (
    BringsFormat,
    Contents,
    GraphFormat,
    GraphNode,
    SessionFactory,
    Structure,
)
from targets.graph import nf4_nodes

SUFFIX = ".onnx"

# Contrib operators whose second input is packed weights: operator -> the element type of what is packed.
_PACKED = {"MatMulBnb4": nf4_nodes.NAME, "MatMulNBits": "uint{bits}"}


class OnnxFormat:
    """`runtimes.sessions.session_contract.GraphFormat` of ONNX files. Values inside of subgraphs are not told."""

    def values(self, model_file: Path) -> tuple[str, ...]:
        """Every output of a node of the main graph."""
        graph = _load(model_file).graph
        outputs = {value.name for value in graph.output}
        return tuple(name for node in graph.node for name in node.output if name and name not in outputs)

    def contents(self, model_file: Path) -> Contents:
        """The initializers; weights packed for a contrib operator count as what is packed."""

        graph = _load(model_file).graph
        packed: dict[str, str] = {}
        for node in graph.node:
            if node.op_type in _PACKED and len(node.input) > 1:
                bits = next((a.i for a in node.attribute if a.name == "bits"), 4)
                packed[node.input[1]] = _PACKED[node.op_type].format(bits=bits)
        counts: dict[str, int] = {}
        for tensor in graph.initializer:
            size = math.prod(tensor.dims)
            kind = packed.get(tensor.name)
            if kind is None:
                kind = _type_name(tensor)
            elif not kind.endswith("8"):
                size *= 2  # Two to a byte.
            counts[kind] = counts.get(kind, 0) + size
        return Contents(counts, any(node.op_type == "QuantizeLinear" for node in graph.node))

    def constants(self, model_file: Path) -> dict[str, StoredConstant]:
        """The initializers, by their names; weights packed for a contrib operator are left out."""
        stored = {}
        graph = _load(model_file).graph
        packed = {node.input[1] for node in graph.node if node.op_type in _PACKED and len(node.input) > 1}
        for tensor in graph.initializer:
            if tensor.name in packed:
                continue
            kind, shape = _type_name(tensor), tuple(tensor.dims)
            place = {entry.key: entry.value for entry in tensor.external_data}
            if tensor.data_location == tensor.EXTERNAL:
                file = model_file.parent / place["location"]
                offset, size = int(place.get("offset", 0)), int(place["length"])
                stored[tensor.name] = StoredConstant(kind, shape, size, file, offset)
            elif tensor.HasField("raw_data"):
                stored[tensor.name] = StoredConstant(kind, shape, len(tensor.raw_data), data=tensor.raw_data)
        return stored

    def structure(self, model_file: Path) -> Structure:
        """Values have their own names; those inside of subgraphs are their node's."""
        import onnx

        graph = _load(model_file).graph
        constants = {tensor.name: _tensor_bytes(tensor) for tensor in graph.initializer}
        shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
        nodes = []
        for node in graph.node:
            read = _reads(node)
            if all(name in constants for name in read) and read:
                bytes_read = sum(constants[name] for name in read)
                constants |= dict.fromkeys(node.output, bytes_read)
                continue
            numbers = {
                a.name: float(a.i if a.type == onnx.AttributeProto.INT else a.f)
                for a in node.attribute
                if a.type in (onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT)
            }
            numbers |= {a.name: float(max(a.ints)) for a in node.attribute if a.ints}
            nodes.append(GraphNode(node.op_type, read, tuple(node.output), numbers))
        inputs = tuple(value.name for value in graph.input if value.name not in constants)
        return Structure(tuple(nodes), shapes, constants, inputs, tuple(v.name for v in graph.output))

    def extract(self, model_file: Path, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """Leaves the nodes that are needed; a value of unknown type is one in fp32, as activations are."""
        import onnx

        model = _load(model_file)
        graph = model.graph
        makers = {name: node for node in graph.node for name in node.output}
        needed: set[str] = set()
        read: set[str] = set()
        pending = [name for name in outputs if name not in inputs]
        while pending:
            name = pending.pop()
            if name in read or name in inputs:
                continue
            read.add(name)
            if name in makers and makers[name].output[0] not in needed:
                needed.add(makers[name].output[0])
                pending += _reads(makers[name])
        value_infos = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}

        def described(name: str) -> onnx.ValueInfoProto:
            unknown = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            return value_infos.get(name, unknown)

        kept = [node for node in graph.node if node.output and node.output[0] in needed]
        tensors = [tensor for tensor in graph.initializer if tensor.name in read]
        ends = [described(name) for name in inputs], [described(name) for name in outputs]
        for field, values in (
            ("node", kept), ("initializer", tensors), ("input", ends[0]), ("output", ends[1])
        ):  # fmt: skip
            copies = [type(value).FromString(value.SerializeToString()) for value in values]
            graph.ClearField(field)
            getattr(graph, field).extend(copies)
        graph.ClearField("value_info")
        return bytes(model.SerializeToString())

    def with_outputs(self, model_file: Path, names: Sequence[str], folder: Path) -> Path:
        """Writes the model's own file anew; the runtime infers the types of the new outputs."""
        import onnx

        model = _load(model_file)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        link_beside(model_file, folder)
        written = folder / model_file.name
        written.write_bytes(model.SerializeToString())
        return written


def with_constants(model_file: Path, constants: Replaced) -> bytes:
    """The model's file with `constants` in the places of those that stand in it."""
    model = _load(model_file)
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            tensor.raw_data = constants[tensor.name].tobytes()
    return cast(bytes, model.SerializeToString())


def _type_name(tensor: Any) -> str:
    """NumPy's name of an initializer's element type."""
    import onnx

    kind = str(onnx.TensorProto.DataType.Name(tensor.data_type)).lower()
    return {"float": "float32", "double": "float64"}.get(kind, kind)


def _reads(node: Any) -> tuple[str, ...]:
    """What a node reads, its subgraphs' own values left out."""
    names = dict.fromkeys(name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            local_names = {name for inner in graph.node for name in inner.output}
            local_names |= {value.name for value in (*graph.input, *graph.initializer)}
            names |= dict.fromkeys(n for inner in graph.node for n in _reads(inner) if n not in local_names)
    return tuple(names)


def _tensor_bytes(tensor: Any) -> int:
    """Of an initializer, in the file or beside it."""
    import onnx

    lengths = [int(entry.value) for entry in tensor.external_data if entry.key == "length"]
    if lengths:
        return lengths[0]
    bits = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4}.get(tensor.data_type)
    width = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if bits is None else bits
    return int(math.prod(tensor.dims) * width // 8)


def link_beside(model_file: Path, folder: Path) -> None:
    """Puts the files beside `model_file` into `folder`: linked where that is possible, copied otherwise.

    Raises:
        LatentcError: they cannot be written.
    """
    for file in model_file.parent.iterdir():
        if file == model_file or not file.is_file() or file.is_symlink():
            continue
        try:
            os.link(file, folder / file.name)
        except OSError:  # Another disk, or a file system without links.
            try:
                shutil.copyfile(file, folder / file.name)
            except OSError as error:
                raise LatentcError(
                    f"{file} cannot be copied to {folder}: {error.strerror or error}.",
                    "Set TMPDIR to a folder on the artifact's disk.",
                ) from error


def format_of(factory: SessionFactory, model_file: Path) -> GraphFormat | None:
    """How the factory's files are looked into: as it says itself, or as ONNX files; None for files of another kind."""
    if isinstance(factory, BringsFormat):
        return factory.format
    return ONNX if model_file.suffix == SUFFIX else None


def _load(model_file: Path) -> Any:
    """The model, of a file that a session has opened or the exporter has written, without its external data."""
    import onnx

    return onnx.load(str(model_file), load_external_data=False)


ONNX = OnnxFormat()
