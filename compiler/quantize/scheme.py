"""The contract of a weight scheme: how rows of numbers are stored in fewer bits, and all that the compiler asks of it.

A scheme is one class in one file and a line in `scheme_table`. What it does not say has a default here; nothing else
knows a scheme by its name.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import onnx_ir as ir

from compiler.quantize.blocks import Blocks, affine
from compiler.quantize.find import Layout
from compiler.quantize.restore import DEQUANTIZE_LINEAR, Restore

NO_METHOD = "none"

FEW_OUTPUTS = 8
"""From this many input channels for each output channel on, a layer is an output of the network: what is wrong there
nothing later makes good. Measured on the built-in model: its last convolution in four bits costs 4 dB."""


@dataclass(frozen=True)
class SchemeOptions:
    """What users can say of a scheme; each scheme's own is a frozen dataclass of bools, ints and strs with defaults.

    What follows is read of the options of any scheme. A scheme that offers one of them has a field of its name.
    """

    @property
    def small(self) -> int:
        """Per cent of a graph's parameters, those in its smallest weights, that are spared."""
        return 0

    @property
    def low_rank(self) -> int:
        """Rank of a correction in fp16 beside the few bits; 0 for none."""
        return 0

    @property
    def method(self) -> str:
        """What chooses the values by the data (`compiler.quantize.method_table`); `NO_METHOD` where the scheme does."""
        return NO_METHOD

    def replaced(self: AnyOptions, **values: bool | int | str) -> AnyOptions:
        """The same with other values for some of its fields."""
        return dataclasses.replace(self, **values)


AnyOptions = TypeVar("AnyOptions", bound=SchemeOptions)


@dataclass(frozen=True)
class Format:
    """How quantized rows lie on disk.

    Attributes:
        element: of the values, and of the zero points: INT8, UINT8, INT4 or UINT4.
        block: elements of a row that share a scale; None for the whole row.
        zero_points: whether there is one beside each scale.
        half_scales: whether scales are stored in fp16, where that holds them; otherwise in fp32.
        negative_scales: whether scales may be below zero.
    """

    element: ir.DataType
    block: int | None = None
    zero_points: bool = False
    half_scales: bool = False
    negative_scales: bool = False

    def bytes(self, layout: Layout) -> int:
        """What a weight takes on disk: values, scales and zero points."""
        size = (layout.rows * layout.inner * self.element.bitwidth + 7) // 8
        blocks = layout.rows * (1 if self.block is None else layout.inner // self.block)
        size += blocks * (2 if self.half_scales else 4)
        return size + ((blocks * self.element.bitwidth + 7) // 8 if self.zero_points else 0)


@dataclass(frozen=True)
class Misfit:
    """Why a weight cannot have what it was to have.

    Attributes:
        why: for people: "36 inputs are no multiple of 32".
        options: those of the same scheme that the weight has instead; None where it takes the scheme's fallback.
    """

    why: str
    options: SchemeOptions | None = None


@dataclass(frozen=True)
class Activations:
    """How a scheme wants the inputs of the layers whose weights it stores.

    Attributes:
        limit: largest relative error of an input in 8 bits, in thousandths; beyond it the weight falls back.
        smooth: whether outliers of inputs may move into the weights.
        top: largest whole number of the weights' type.
    """

    limit: int
    smooth: bool
    top: int


class Scheme(ABC, Generic[AnyOptions]):
    """One way to store weights.

    Attributes:
        name: as users write it.
        options: the class of its options.
        choices: option -> the values that it may have, where not all are good.
        labelled: options that a weight's label names even where they are the default.
        tolerance: largest ``||out - ref|| / ||ref||`` of a graph's output, against PyTorch in fp32, that its rounding
            may cause; a wrong graph gives about 1.
        fallback: name of the scheme that weights take which this one does not fit; empty where they stay as they are.
        candidates: what `auto` may make of a weight, each with nothing spared.
        restore: how the values become floats in a graph.
    """

    name: str
    options: type[AnyOptions]
    choices: Mapping[str, tuple[object, ...]] = {}
    labelled: tuple[str, ...] = ()
    tolerance: float
    fallback: str = ""
    candidates: tuple[AnyOptions, ...] = ()
    restore: Restore = DEQUANTIZE_LINEAR

    @abstractmethod
    def format(self, options: AnyOptions) -> Format:
        """How the rows are stored."""

    @abstractmethod
    def quantize(self, rows: np.ndarray, options: AnyOptions) -> Blocks:
        """Quantizes finite float32 [rows, inner], where the format's block divides `inner`."""

    def dequantize(self, blocks: Blocks, options: AnyOptions) -> np.ndarray:
        """float32 [rows, inner], as `restore` computes it. By default, what DequantizeLinear does."""
        return affine(blocks)

    def misfit(self, layout: Layout, options: AnyOptions) -> Misfit | None:
        """Why a weight cannot be stored so; None where it can. By default, where blocks do not fit its rows."""
        block = self.format(options).block
        if block is None:
            return None
        if layout.is_transposed:
            return Misfit(layout.article)
        return Misfit(f"{layout.inner} inputs are no multiple of {block}") if layout.inner % block else None

    def activations(self, options: AnyOptions) -> Activations | None:
        """What it wants of its layers' inputs; None where they stay floats."""
        return None

    def label(self, options: AnyOptions) -> str:
        """As a user would write it, "int4:group=64": the options that are not the default."""
        default = dataclasses.asdict(self.options())
        parts = [
            key if value is True else f"{key}={value}"
            for key, value in dataclasses.asdict(options).items()
            if value != default[key] or key in self.labelled
        ]
        return self.name + (":" + ",".join(parts) if parts else "")

    def for_speed(self, wide_products: bool) -> AnyOptions | None:
        """The options with which its layers are computed in fewer bits, which is faster; None where weights alone are.

        Args:
            wide_products: whether the processor adds products of 8-bit numbers up in 32 bits.
        """
        return None

    def default(self) -> AnyOptions:
        """The options where a user names none."""
        return self.options()


def unaveraged(layout: Layout) -> Misfit | None:
    """Why few bits are too few: a layer of few outputs, whose errors nothing averages."""
    if layout.kind == "embedding" or layout.inputs < FEW_OUTPUTS * layout.rows:
        return None
    return Misfit(f"{layout.inputs} inputs to {layout.rows} outputs: errors there are not averaged")
