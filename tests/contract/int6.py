"""A weight scheme as another package would offer it: one class and one entry point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from latentc.schemes import Blocks, Format, Layout, Misfit, Scheme, SchemeOptions, symmetric

TOP = 31


@dataclass(frozen=True)
class Int6Options(SchemeOptions):
    """Options of the scheme "int6".

    Attributes:
        top: largest whole number.
        small: per cent of a graph's parameters, those in its smallest weights, that are left alone.
    """

    top: int = TOP
    small: int = 1


class Int6(Scheme[Int6Options]):
    """6 bits an element, in 8; one fp32 scale a row."""

    name = "int6"
    options = Int6Options
    tolerance = 0.4
    fallback = "int8"
    candidates = (Int6Options(small=0),)

    def format(self, options: Int6Options) -> Format:
        """INT8."""
        return Format(ir.DataType.INT8)

    def misfit(self, layout: Layout, options: Int6Options) -> Misfit | None:
        """Convolutions."""
        return Misfit(layout.article) if layout.kind == "conv" else None

    def quantize(self, rows: np.ndarray, options: Int6Options) -> Blocks:
        """See `Scheme`."""
        return symmetric(rows, options.top)


SCHEME = Int6()
