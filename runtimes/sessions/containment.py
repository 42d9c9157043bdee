"""ONNX external data that stays where it belongs: checked before a vendor opens the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from artifacts.errors import LatentcError


def check_external_data(model_file: Path) -> None:
    """Every tensor of `model_file` lies in it, or inside a plain file beside it.

    Raises:
        LatentcError: a location is not a plain file name, is a link, is missing, or ends before the
            tensor does; or the model is not an ONNX file.
    """
    import onnx

    if model_file.is_symlink() or not model_file.is_file():
        raise LatentcError(f"{model_file} is not a plain file.")
    try:
        model = onnx.load(str(model_file), load_external_data=False)
    except Exception as error:  # protobuf raises its own DecodeError, which depends on its backend.
        raise LatentcError(f"{model_file} is not an ONNX file: {error}") from error
    sizes: dict[str, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        if location not in sizes:
            sizes[location] = _size(model_file, location)
        try:
            end = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
            start = int(entries.get("offset", "0"))
        except ValueError as error:
            raise LatentcError(
                f"{model_file}: the external data of '{tensor.name}' has no valid offset."
            ) from error
        if start < 0 or end < start or end > sizes[location]:
            raise LatentcError(
                f"{model_file}: '{tensor.name}' is at bytes {start} to {end} of {location}, "
                f"which has {sizes[location]}.",
                "The file is damaged: compile the model again.",
            )


def _size(model_file: Path, location: str) -> int:
    plain = location not in ("", ".", "..") and ":" not in location and "\0" not in location
    if not plain or location != PurePosixPath(location).name or location != PureWindowsPath(location).name:
        raise LatentcError(
            f"{model_file}: weights at '{location}'; only a plain name of a file beside it is allowed."
        )
    path = model_file.parent / location
    if path.is_symlink() or not path.is_file():
        raise LatentcError(f"{model_file}: its weights, {path.name}, are not a plain file beside it.")
    return path.stat().st_size


def _tensors(model: Any) -> Iterator[Any]:
    yield from _of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _of_node(node)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        yield from attribute.tensors
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
        for graph in attribute.graphs:
            yield from _of_graph(graph)
