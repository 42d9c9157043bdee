"""A convolution of an enlarged picture becomes convolutions of the picture itself.

Enlarging by repeating pixels puts the same number under several taps of a kernel; their weights can be added up
beforehand. For twice the size and 3x3 taps, each of the four kinds of output pixel is a convolution of 2x2 taps, 4/9 of
the work, and the enlarged picture is never written. (Aitken et al., "Checkerboard artifact free sub-pixel convolution",
arXiv:1707.02937, equation 2 from right to left.)
"""

from __future__ import annotations

from itertools import groupby

import onnx_ir as ir

from targets.graph.constants import constant, int_attribute, ints_attribute
from targets.graph.dims import dims
from targets.graph.edit import add_initializer, alias, insert
from targets.graph.match import sole_maker
from targets.graph.weights import Merge, WeightRef


class SubPixelConvPass(ir.passes.InPlacePass):
    """``Conv(Resize(x))``, s times the size, becomes ``DepthToSpace(Concat(Conv_ij(x)))`` with i and j up to s."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        convs = [n for n in model.graph if n.op_type == "Conv" and n.domain == ""]
        done = [node for node in convs if _apart(node, model.graph)]
        return ir.passes.PassResult(model, bool(done))


def _apart(conv: ir.Node, graph: ir.Graph) -> bool:
    resize = sole_maker(conv.inputs[0], "Resize")
    weight = None if resize is None else conv.inputs[1]
    if resize is None or weight is None or weight.is_graph_input():
        return False
    times, taps, data = _times(resize), weight.const_value, resize.inputs[0]
    if times is None or data is None or not isinstance(taps, WeightRef) or len(taps.shape) != 4:
        return False
    kernel = taps.shape.numpy()[2:]
    before = _same(conv, kernel)
    if before is None or max(kernel) == 1:
        return False
    rows, columns = (_kinds(size, pad, times) for size, pad in zip(kernel, before, strict=True))
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    out, dtype, shape = conv.outputs[0], conv.outputs[0].dtype, dims(data)
    channels = taps.shape.numpy()[0]
    small = None if shape is None else (shape[0], channels, *shape[2:])
    parts = []
    for i, (up, down, tall) in enumerate(rows):
        for j, (left, right, wide) in enumerate(columns):
            merged = taps.then(Merge(((2, tall), (3, wide))))
            merged.name = name = f"{weight.name}.{i}.{j}"
            inputs = [data, add_initializer(graph, merged, name), bias]
            attributes = {"kernel_shape": [len(tall), len(wide)], "pads": [up, left, down, right]}
            part = insert(conv, "Conv", inputs, attributes, dtype=dtype, shape=small, before=True)
            parts.append(part.outputs[0])
    deep = None if shape is None else (shape[0], channels * len(parts), *shape[2:])
    joined = insert(conv, "Concat", parts, {"axis": 1}, dtype=dtype, shape=deep, before=True).outputs
    spread = insert(
        conv, "DepthToSpace", joined, {"blocksize": times, "mode": "DCR"}, dtype=dtype, before=True
    )
    spread.outputs[0].shape = out.shape
    alias(conv, spread.outputs)
    return True


def _times(resize: ir.Node) -> int | None:
    """How many times each pixel is repeated, in both directions; None for any other enlarging."""
    scales = constant(resize.inputs[2]) if len(resize.inputs) > 2 else None
    if scales is None or scales.size != 4 or "axes" in resize.attributes:
        return None
    words = {name: attribute.as_string() for name, attribute in resize.attributes.items() if name in _REPEATS}
    times = int(scales[2])
    repeats = all(words.get(name) == wanted for name, wanted in _REPEATS.items())
    return times if repeats and times > 1 and scales.tolist() == [1, 1, times, times] else None


# Output pixel i is input pixel i // times.
_REPEATS = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def _same(conv: ir.Node, kernel: tuple[int, ...]) -> tuple[int, ...] | None:
    """The padding in front, of a plain convolution that keeps the size; None for any other."""
    auto = conv.attributes.get("auto_pad")
    if auto is not None and auto.as_string() != "NOTSET":
        return None
    pads = ints_attribute(conv, "pads") or (0, 0, 0, 0)
    plain = all((ints_attribute(conv, name) or (1, 1)) == (1, 1) for name in ("strides", "dilations"))
    if not plain or int_attribute(conv, "group", 1) != 1:
        return None
    sums = tuple(first + last for first, last in zip(pads[:2], pads[2:], strict=True))
    return pads[:2] if sums == tuple(size - 1 for size in kernel) else None


def _kinds(size: int, before: int, times: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """For each kind of output pixel along one axis: padding in front and behind, and how many taps fall on each pixel.

    Tap t of kind k sees the enlarged pixel ``times * i + k + t - before``, which is pixel ``i + that // times``.
    """
    kinds = []
    for kind in range(times):
        seen = [(kind + tap - before) // times for tap in range(size)]
        sizes = tuple(len(list(same)) for _, same in groupby(seen))
        kinds.append((-seen[0], seen[-1], sizes))
    return kinds
