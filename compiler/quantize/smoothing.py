"""Per-channel smoothing: outliers of an activation move into the weights that read it.

SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): channel j of a norm's result is divided by a factor, in the norm's
own scale and bias, and row j of every matrix behind it is multiplied by it. In floating point nothing changes. The
paper's strength is one number for a model; here each norm takes the one of `STRENGTHS` with the least error as its
own calibration measured it, and none where none helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compiler.quantize.blocks import symmetric
from compiler.quantize.find import QuantizableWeight, find
from compiler.quantize.int8_ranges import LEVELS, Site
from targets.graph.edit import add_constant
from targets.graph.weights import Multiply, WeightRef

STRENGTHS = (0.25, 0.5, 0.75)
"""Of SmoothQuant: 0 would leave all outliers to the activation, 1 all to the weights."""

GAIN = 0.95
"""Part of the error without smoothing that must not be exceeded for it to be worth a change."""


@dataclass(frozen=True)
class Smoothable:
    """An activation that a norm makes for quantized matrices alone.

    Attributes:
        site: where it is.
        norm: a LayerNormalization over the last axis, with a scale.
        weights: the matrices, [inner, out] or transposed.
    """

    site: Site
    norm: ir.Node
    weights: tuple[QuantizableWeight, ...]

    @property
    def channels(self) -> int:
        """How many the norm scales."""
        shape = self.norm.inputs[1].shape  # type: ignore[union-attr]
        assert shape is not None
        return int(shape.numpy()[0])


@dataclass(frozen=True)
class Channels:
    """What calibration measured of one activation, float64 [channels] each: minimum, maximum, mean of squares."""

    low: np.ndarray
    high: np.ndarray
    power: np.ndarray


def smoothable(model: ir.Model, sites: Sequence[Site]) -> list[Smoothable]:
    """The sites whose factors can be folded on both sides."""
    weights = {use.node: f for f in find(model) if f.layout.kind == "linear" for use in f.value.uses()}
    result = []
    for site in sites:
        norm = site.value.producer()
        readers = [node for node, _ in site.readers]
        if norm is None or norm.op_type != "LayerNormalization" or not _over_last_axis(norm):
            continue
        read = [weights.get(use.node) for use in site.value.uses()]
        if site.value.is_graph_output() or any(f is None for f in read):
            continue
        matrices = tuple(dict.fromkeys(f for f in read if f is not None))
        # Every use of the value and of the weights is one of the site's.
        if all(use.node in readers for f in matrices for use in f.value.uses()) and len(read) == len(readers):
            result.append(Smoothable(site, norm, matrices))
    return result


def _over_last_axis(norm: ir.Node) -> bool:
    scale = norm.inputs[1]
    shape = norm.outputs[0].shape
    if shape is None or scale is None or scale.const_value is None or scale.shape is None:
        return False
    bias = norm.inputs[2] if len(norm.inputs) > 2 else None
    if bias is not None and bias.const_value is None:
        return False
    return norm.attributes.get_int("axis", -1) in (-1, len(shape) - 1) and len(scale.shape) == 1


def channels(groups: Sequence[Smoothable], taps: np.ndarray) -> list[Channels]:
    """What was measured over all calls.

    Args:
        taps: float32 [calls, ...], of the groups' activations by channel, one after the other
            (`compiler.quantize.int8_ranges.tap`).
    """
    parts = _parts(groups, taps)
    return [
        Channels(part[:, 0].min(axis=0), part[:, 1].max(axis=0), part[:, 2].mean(axis=0)) for part in parts
    ]


def smoothed(
    groups: Sequence[Smoothable], taps: np.ndarray, factors: Sequence[np.ndarray | None]
) -> np.ndarray:
    """The taps of the groups' activations as a whole once they are divided by `factors`, without another run.

    Args:
        taps: as of `channels`.

    Returns:
        float32 [calls, groups, 3]: minimum, maximum, mean of squares.
    """
    wholes = []
    for part, factor in zip(_parts(groups, taps), factors, strict=True):
        by = np.float64(1) if factor is None else factor.astype(np.float64)
        low, high, power = part[:, 0] / by, part[:, 1] / by, part[:, 2] / by**2
        wholes.append(np.stack([low.min(axis=1), high.max(axis=1), power.mean(axis=1)], axis=1))
    return np.stack(wholes, axis=1).astype(np.float32)


def _parts(groups: Sequence[Smoothable], taps: np.ndarray) -> list[np.ndarray]:
    """float64 [calls, 3, channels] of each."""
    ends = np.cumsum([3 * group.channels for group in groups])[:-1]
    return [part.reshape(len(taps), 3, -1).astype(np.float64) for part in np.split(taps, ends, axis=1)]


def factors(group: Smoothable, observed: Channels, top: int) -> np.ndarray | None:
    """What each channel is to be divided by, float32 [channels]; None where that does not lower the error.

    Args:
        top: the largest whole number of the weights' type.
    """
    reach = np.maximum(np.abs(observed.low), np.abs(observed.high))
    matrices = [_rows(f) for f in group.weights]
    heights = np.maximum.reduce([np.abs(m).max(axis=0) for m in matrices]).astype(np.float64)
    least = GAIN * _noise(matrices, observed, np.ones(group.channels), top)
    best = None
    for strength in STRENGTHS:
        tried = _tame(reach**strength / np.where(heights > 0, heights, 1) ** (1 - strength))
        noise = _noise(matrices, observed, tried, top)
        if noise < least:
            best, least = tried, noise
    return None if best is None else best.astype(np.float32)


def _rows(initializer: QuantizableWeight) -> np.ndarray:
    rows: np.ndarray = initializer.rows.numpy()
    return rows


def _tame(scales: np.ndarray) -> np.ndarray:
    """Positive, and 1 in the geometric mean: channels that are always zero stay as they are."""
    alive = np.isfinite(scales) & (scales > 0)
    if not alive.any():
        return np.ones_like(scales)
    scaled = scales / np.exp(np.mean(np.log(scales[alive])))
    return np.where(alive, np.clip(scaled, 1e-3, 1e3), 1.0)


def _noise(matrices: Sequence[np.ndarray], observed: Channels, by: np.ndarray, top: int) -> float:
    """Expected squared error of all results together: of rounding the activation, and of rounding the weights."""
    low = min(float((observed.low / by).min()), 0.0)
    high = max(float((observed.high / by).max()), 0.0)
    # Rounding is off by a twelfth of the squared step in the mean.
    step = ((high - low) / LEVELS) ** 2 / 12
    power = observed.power / by**2
    total = 0.0
    for matrix in matrices:
        rows = matrix * by.astype(np.float32)
        blocks = symmetric(rows, top)
        off = rows - blocks.values * blocks.scale
        total += step * float(np.sum(rows.astype(np.float64) ** 2)) + float(
            np.sum(off.astype(np.float64) ** 2 @ power)
        )
    return total


def fold(model: ir.Model, group: Smoothable, by: np.ndarray) -> None:
    """Divides the norm's scale and bias and multiplies the matrices, in place; weights stay on disk."""
    for index in (1, 2):
        value = group.norm.inputs[index] if index < len(group.norm.inputs) else None
        if value is None:
            continue
        assert value.const_value is not None
        divided = value.const_value.numpy().astype(np.float32) / by
        group.norm.replace_input_with(index, add_constant(model.graph, divided, f"{value.name}.smoothed"))
        if not value.uses() and value.name is not None:
            model.graph.initializers.pop(value.name, None)
    for initializer in group.weights:
        weight = initializer.value.const_value
        assert isinstance(weight, WeightRef)
        initializer.value.const_value = weight.then(Multiply.of(by, 1 - initializer.layout.channel))
