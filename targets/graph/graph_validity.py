"""Whether a graph is valid, and how it looks, without reading its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from targets.graph.constants import is_small
from targets.graph.shapes import Shapes

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def weightless(model: ir.Model) -> Iterator[ir.Model]:
    """The model with its weights turned into graph inputs: it can be serialized without reading them."""
    graph = model.graph
    taken = [(n, v) for n, v in graph.initializers.items() if not is_small(v.const_value)]
    input_count = len(graph.inputs)
    tensors = [v.const_value for _, v in taken]
    for name, value in taken:
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
    try:
        yield model
    finally:
        while len(graph.inputs) > input_count:
            graph.inputs.pop()  # `del` would leave the values marked as inputs
        for (_, value), tensor in zip(taken, tensors, strict=False):
            value.const_value = tensor
            graph.register_initializer(value)


def complete(model: ir.Model) -> None:
    """Fills in the types and shapes of all values: our own rules first, onnx's inference for what is left.

    Raises:
        PreconditionError: a tensor's element type stays unknown.
    """
    from onnx_ir.passes import common

    def untyped() -> list[str]:
        return [v.name or "" for n in model.graph for v in n.outputs if v.type is None and v.name != ""]

    shapes = Shapes()
    for node in model.graph:
        shapes.visit(node)
    if untyped():
        with weightless(model):
            common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    if left := untyped():
        raise ir.passes.PreconditionError(
            f"the element types of these values are unknown: {', '.join(left[:5])}"
        )


def check_model(model: ir.Model, name: str = "") -> None:
    """Runs onnx's checker with full shape inference.

    Raises:
        InvariantError: the graph is invalid; the message begins with the pass `name`.
    """
    import onnx

    where = f"after pass '{name}': " if name else ""
    seen: set[str] = set()
    for value in _values(model.graph):
        if not value.name or value.name in seen:
            raise ir.passes.InvariantError(f"{where}the value name '{value.name}' is used twice or empty")
        seen.add(value.name)
    with weightless(model):
        proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise ir.passes.InvariantError(f"{where}{error}") from error


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    inputs = set(graph.inputs)
    yield from graph.inputs
    yield from (v for v in graph.initializers.values() if v not in inputs)
    for node in graph:
        yield from (v for v in node.outputs if v.name != "")


def dump_text(model: ir.Model, file: Path) -> None:
    """Writes the graph as text. Weights appear as `WeightRef(key, type, shape, transforms)`."""
    file.write_text(_COLOUR.sub("", str(model)), encoding="utf-8")
