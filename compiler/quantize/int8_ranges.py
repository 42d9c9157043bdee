"""Activations in int8: where they are, taps that measure their ranges inside a graph, and the Q/DQ pairs.

An activation is the input of products and convolutions whose weights are quantized under a scheme that wants it
so. What leaves the runtime while it is measured is three numbers for each, and in a second run one for each way
of cutting its range; no activation does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compiler.quantize.find import Layout, find
from targets.graph.edit import add_constant, insert
from targets.graph.model_copy import copy_of

TAPS = "latentc.taps"
"""The tapped graph's additional output, float32 in one dimension."""

LEVELS = 255
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Parts of the measured range that the second run tries."""

# Below this error of the whole range there is nothing to win by cutting it.
_GOOD = 0.004


@dataclass(frozen=True)
class Site:
    """One activation and the weights (keys) of the layers that read it."""

    value: ir.Value
    readers: tuple[tuple[ir.Node, int], ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """An activation's range, and the error of its int8 form.

    Attributes:
        low, high: what is represented; zero lies between them.
        error: ``||quantized - float|| / ||float||`` over the calibration.
    """

    low: float
    high: float
    error: float

    @property
    def scale(self) -> float:
        """The step; 1 where the activation was always zero."""
        return (self.high - self.low) / LEVELS or 1.0

    @property
    def zero(self) -> int:
        """The uint8 that stands for zero."""
        return int(np.clip(round(-self.low / self.scale), 0, LEVELS))


def sites(model: ir.Model, wanted: Callable[[str, Layout], bool]) -> list[Site]:
    """The activations of all layers whose weight is `wanted`, in the graph's order."""
    readers: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    keys: dict[ir.Value, list[str]] = {}
    chosen = [f for f in find(model) if f.layout.kind in ("linear", "conv") and wanted(f.key, f.layout)]
    order = {node: i for i, node in enumerate(model.graph)}
    for initializer in chosen:
        for use in initializer.value.uses():
            value = use.node.inputs[0]
            if value is not None and value.const_value is None:
                readers.setdefault(value, []).append((use.node, 0))
                keys.setdefault(value, []).append(initializer.key)
    all_sites = [
        Site(value, tuple(nodes), tuple(dict.fromkeys(keys[value]))) for value, nodes in readers.items()
    ]
    return sorted(all_sites, key=lambda site: min(order[node] for node, _ in site.readers))


def tap(
    model: ir.Model,
    activation_sites: Sequence[Site],
    ranges: Sequence[Range] | None = None,
    by_channel: Sequence[ir.Value] = (),
) -> ir.Model:
    """A copy of the graph with one more output, `TAPS`.

    Args:
        ranges: None for the first run. For the second, one for each site.
        by_channel: activations of which each channel, along the last axis, is tapped by itself.

    Returns:
        The copy. Its taps are [sites, 3]: minimum, maximum, mean of squares; in the second run
        [sites, shares]: the mean squared error of the range cut to that share. Behind them are [3, channels] of each
        of `by_channel`: minima, maxima, means of squares.
    """
    copy = copy_of(model)
    same = twins(model, copy)
    ends: list[ir.Value] = []
    for number, site in enumerate(activation_sites):
        value = same[site.value]
        build = Tap(copy.graph, value)
        if ranges is None:
            ends += [build.reduce("ReduceMin", value), build.reduce("ReduceMax", value)]
            ends.append(build.reduce("ReduceMean", build.node("Mul", value, value)))
        else:
            ends += [build.error(cut(ranges[number], share)) for share in SHARES]
    for activation in by_channel:
        value = same[activation]
        build = Tap(copy.graph, value)
        assert value.shape is not None  # or its channels were not told apart
        axes = list(range(len(value.shape) - 1))
        ends += [build.reduce("ReduceMin", value, axes), build.reduce("ReduceMax", value, axes)]
        ends.append(build.reduce("ReduceMean", build.node("Mul", value, value), axes))
    flat(copy.graph, ends)
    return copy


def twins(model: ir.Model, copy: ir.Model) -> dict[ir.Value, ir.Value]:
    """Each value of a graph -> the same value of its clone."""
    return dict(zip(_values(model), _values(copy), strict=True))


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]


def flat(graph: ir.Graph, ends: Sequence[ir.Value]) -> None:
    """Makes the elements of all `ends`, one after the other, the graph's additional output `TAPS`.

    It comes first: runtimes that order nodes by what outputs need (OpenVINO does) then measure each activation as soon
    as it is there. Behind the others, all activations would be kept until the graph's own output is done.
    """
    all_of_them = add_constant(graph, np.array([-1], np.int64), f"{TAPS}.all")
    lines, length = [], 0
    for end in ends:
        assert end.shape is not None
        size = math.prod(end.shape.numpy())
        node = ir.node("Reshape", [end, all_of_them])
        node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape([size])
        graph.append(node)
        lines.append(node.outputs[0])
        length += size
    joined = ir.node("Concat", lines, {"axis": 0})
    out = joined.outputs[0]
    out.name, out.dtype, out.shape = TAPS, ir.DataType.FLOAT, ir.Shape([length])
    graph.append(joined)
    graph.outputs.insert(0, out)


@dataclass(frozen=True)
class Tap:
    """Appends nodes that read one value to the graph's end."""

    graph: ir.Graph
    value: ir.Value

    def node(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        node = ir.node(op_type, list(inputs))
        node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, self.value.shape
        self.graph.append(node)
        return node.outputs[0]

    def reduce(self, op_type: str, value: ir.Value, axes: Sequence[int] | None = None) -> ir.Value:
        """Over all axes, or over those; what is left has a shape that is known."""
        inputs, shape = [value], ir.Shape([])
        if axes is not None:
            inputs.append(add_constant(self.graph, np.array(axes, np.int64), f"{TAPS}.axes"))
            assert self.value.shape is not None
            shape = ir.Shape([size for axis, size in enumerate(self.value.shape) if axis not in axes])
        node = ir.node(op_type, inputs, {"keepdims": 0})
        node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, shape
        self.graph.append(node)
        return node.outputs[0]

    def error(self, activation_range: Range) -> ir.Value:
        """Mean squared error of rounding to `activation_range`, in arithmetic that no runtime turns into integers."""
        scale = self._number(activation_range.scale)
        low, high = (
            self._number(-float(activation_range.zero)),
            self._number(float(LEVELS - activation_range.zero)),
        )
        levels = self.node("Round", self.node("Div", self.value, scale))
        levels = self.node("Min", self.node("Max", levels, low), high)
        off = self.node("Sub", self.node("Mul", levels, scale), self.value)
        return self.reduce("ReduceMean", self.node("Mul", off, off))

    def _number(self, number: float) -> ir.Value:
        return add_constant(self.graph, np.array(number, np.float32), f"{TAPS}.number")


def cut(activation_range: Range, share: float) -> Range:
    """The range with both ends brought nearer to zero."""
    return Range(activation_range.low * share, activation_range.high * share, activation_range.error)


def first_ranges(taps: np.ndarray, symmetric: bool = False) -> list[Range]:
    """Ranges from the first run.

    Args:
        taps: float32 [calls, sites * 3].
        symmetric: ranges have zero in their middle, for types without a zero point.
    """
    stats = taps.reshape(len(taps), -1, 3).astype(np.float64)
    low = np.minimum(stats[:, :, 0].min(axis=0), 0)
    high = np.maximum(stats[:, :, 1].max(axis=0), 0)
    if symmetric:
        high = np.maximum(high, -low)
        low = -high
    power = stats[:, :, 2].mean(axis=0)
    # Rounding is off by a twelfth of the squared step in the mean.
    noise = ((high - low) / LEVELS) ** 2 / 12
    error = np.sqrt(np.divide(noise, power, out=np.zeros_like(noise), where=power > 0))
    return [Range(float(a), float(b), float(e)) for a, b, e in zip(low, high, error, strict=True)]


def outliers(ranges: Sequence[Range]) -> list[int]:
    """The sites that a second run may better."""
    return [number for number, interval in enumerate(ranges) if interval.error > _GOOD]


def second_ranges(ranges: Sequence[Range], first: np.ndarray, second: np.ndarray) -> list[Range]:
    """For each site the cut with the least squared error.

    Args:
        ranges: the sites' ranges from the first run.
        first: float32 [calls, sites * 3]: their taps then.
        second: float32 [calls, sites * shares].
    """
    power = first.reshape(len(first), -1, 3).astype(np.float64)[:, :, 2].mean(axis=0)
    errors = second.reshape(len(second), -1, len(SHARES)).astype(np.float64).mean(axis=0)
    result = []
    for interval, size, row in zip(ranges, power, errors, strict=True):
        best = int(np.argmin(row))
        error = float(np.sqrt(row[best] / size)) if size > 0 else 0.0
        result.append(Range(interval.low * SHARES[best], interval.high * SHARES[best], error))
    return result


def quantize(
    model: ir.Model, activation_sites: Sequence[Site], ranges: Sequence[Range | None], symmetric: bool = False
) -> None:
    """Puts QuantizeLinear and DequantizeLinear in front of the readers of each site that has a range.

    Args:
        symmetric: the ranges are; activations are int8 without a zero point, else uint8 with one.
    """
    dtype = ir.DataType.INT8 if symmetric else ir.DataType.UINT8
    for site, site_range in zip(activation_sites, ranges, strict=True):
        if site_range is None:
            continue
        name = str(site.value.name)
        scale = add_constant(model.graph, np.array(site_range.scale, np.float32), f"{name}.scale")
        # int8 in place of uint8: the same steps, counted from the middle.
        stands_for_zero = np.array(0 if symmetric else site_range.zero, dtype.numpy())
        zero = add_constant(model.graph, stands_for_zero, f"{name}.zero_point")
        order = {node: i for i, node in enumerate(model.graph)}
        before = min((node for node, _ in site.readers), key=order.__getitem__)
        shape = site.value.shape
        down = insert(
            before,
            "QuantizeLinear",
            [site.value, scale, zero],
            dtype=dtype,
            shape=shape,
            before=True,
        )
        up = insert(
            down, "DequantizeLinear", [down.outputs[0], scale, zero], dtype=ir.DataType.FLOAT, shape=shape
        )
        for node, index in site.readers:
            node.replace_input_with(index, up.outputs[0])
