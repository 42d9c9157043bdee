"""What small integer tensors hold, some of whose elements may be symbolic: shape arithmetic is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from targets.graph.constants import constant, int_attribute
from targets.graph.dims import Dim, Dims, dims, static

# Contents are tracked up to this many elements: a shape is never longer.
_LONGEST_SHAPE = 16

_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32})


class Contents:
    """What is known of the elements of small integer tensors, recorded in topological order."""

    def __init__(self) -> None:
        self._contents: dict[ir.Value, Dims] = {}

    def contents(self, value: ir.Value | None) -> Dims | None:
        """What is known of the elements of an integer tensor of rank 0 or 1; None when nothing is."""
        if value is None:
            return None
        elements = self._contents.get(value)
        if elements is None and value.dtype in _INTEGERS:
            tensor = value.const_value
            if tensor is not None and tensor.size <= _LONGEST_SHAPE and len(tensor.shape) <= 1:
                array = constant(value)
                if array is not None:
                    elements = self._contents[value] = tuple(array.reshape(-1).tolist())
        return elements

    def record(self, node: ir.Node) -> None:
        """Keeps what is known of the elements of the node's first output, where they are integers."""
        out = node.outputs[0]
        rule = _CONTENTS.get(node.op_type) if out.dtype in _INTEGERS else None
        elements = None if rule is None else rule(self, node)
        if elements is not None and len(elements) <= _LONGEST_SHAPE and any(e is not None for e in elements):
            self._contents[out] = elements

    def fixed(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """All elements of a small integer tensor when every one is known, otherwise None."""
        elements = self.contents(value)
        return elements if elements is not None and all(isinstance(e, int) for e in elements) else None  # type: ignore[return-value]


def slice_bounds(contents: Contents, node: ir.Node) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, end, step) of a Slice node as written, when all are constants, otherwise None."""
    first = dims(node.inputs[0])
    starts, ends = contents.fixed(node.inputs[1]), contents.fixed(node.inputs[2])
    if first is None or starts is None or ends is None:
        return None
    axes: tuple[int, ...] | None = tuple(range(len(starts)))
    steps: tuple[int, ...] | None = (1,) * len(starts)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = contents.fixed(node.inputs[3])
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        steps = contents.fixed(node.inputs[4])
    if axes is None or steps is None:
        return None
    return [(a % len(first), s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=False)]


# From here on an end means "to the end" whatever the size: exporters write the largest int64.
_TO_THE_END = 2**31 - 1


def is_whole(bounds: tuple[int, int, int, int], dim: Dim) -> bool:
    """Whether a slice of an axis of size `dim` takes all of it."""
    _, start, end, step = bounds
    if step != 1:
        return False
    if isinstance(dim, int):
        return range(dim)[start:end] == range(dim)
    return start == 0 and end >= _TO_THE_END


def shape_contents(contents: Contents, node: ir.Node) -> Dims | None:
    """What a Shape node returns; None where the rank is not known."""
    first = dims(node.inputs[0])
    if first is None:
        return None
    end = node.attributes.get("end")
    return first[int_attribute(node, "start", 0) : None if end is None else end.as_int()]


def _passed_on(contents: Contents, node: ir.Node) -> Dims | None:
    rank = dims(node.outputs[0])
    return contents.contents(node.inputs[0]) if rank is not None and len(rank) <= 1 else None


def _cast_contents(contents: Contents, node: ir.Node) -> Dims | None:
    elements = _passed_on(contents, node)
    if elements is None or node.outputs[0].dtype == ir.DataType.INT64:
        return elements
    return tuple(None if isinstance(e, int) and not -(2**31) <= e < 2**31 else e for e in elements)


def _joined(contents: Contents, node: ir.Node) -> Dims | None:
    out: list[Dim] = []
    for value in node.inputs:
        part = contents.contents(value)
        if part is None:
            length = static(value)
            if length is None or len(length) != 1 or length[0] > _LONGEST_SHAPE:
                return None
            part = (None,) * length[0]
        out.extend(part)
    return tuple(out)


def _gathered(contents: Contents, node: ir.Node) -> Dims | None:
    data, index = contents.contents(node.inputs[0]), contents.fixed(node.inputs[1])
    if data is None or index is None or len(dims(node.inputs[0]) or ()) != 1:
        return None
    return tuple(data[i] for i in index) if all(-len(data) <= i < len(data) for i in index) else None


def _sliced(contents: Contents, node: ir.Node) -> Dims | None:
    data, bounds = contents.contents(node.inputs[0]), slice_bounds(contents, node)
    if data is None or bounds is None or len(bounds) != 1:
        return None
    _, start, end, step = bounds[0]
    return data[start:end:step]


def _arithmetic(contents: Contents, node: ir.Node) -> Dims | None:
    a, b = contents.contents(node.inputs[0]), contents.contents(node.inputs[1])
    if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
        return None
    length = max(len(a), len(b))
    a, b = (x * length if len(x) == 1 else x for x in (a, b))
    return tuple(_element(node.op_type, x, y) for x, y in zip(a, b, strict=False))


def _element(op: str, x: Dim, y: Dim) -> Dim:
    if isinstance(x, int) and isinstance(y, int):
        if op == "Div":  # ONNX divides integers towards zero
            return None if y == 0 else int(math.copysign(1, x) * math.copysign(1, y)) * (abs(x) // abs(y))
        return {"Add": x + y, "Sub": x - y, "Mul": x * y}[op]
    if op in ("Add", "Sub") and y == 0 or op in ("Mul", "Div") and y == 1:
        return x
    if op == "Add" and x == 0 or op == "Mul" and x == 1:
        return y
    return None


_CONTENTS: dict[str, Callable[[Contents, ir.Node], Dims | None]] = {
    "Add": _arithmetic,
    "Cast": _cast_contents,
    "Concat": _joined,
    "Div": _arithmetic,
    "Gather": _gathered,
    "Identity": _passed_on,
    "Mul": _arithmetic,
    "Reshape": _passed_on,
    "Shape": shape_contents,
    "Slice": _sliced,
    "Squeeze": _passed_on,
    "Sub": _arithmetic,
    "Unsqueeze": _passed_on,
}
