"""What another package imports to add a weight scheme: the contract and what it is made of.

It has these names from a checkout and from a wheel alike; the packages behind them lie elsewhere in a wheel.
"""

from __future__ import annotations

from compiler.quantize.blocks import Blocks, affine, as_half, nonzero, spread, symmetric
from compiler.quantize.find import Layout
from compiler.quantize.restore import DEQUANTIZE_LINEAR, Parts, Restore
from compiler.quantize.scheme import Activations, Format, Misfit, Scheme, SchemeOptions, unaveraged

__all__ = [
    "DEQUANTIZE_LINEAR",
    "Activations",
    "Blocks",
    "Format",
    "Layout",
    "Misfit",
    "Parts",
    "Restore",
    "Scheme",
    "SchemeOptions",
    "affine",
    "as_half",
    "nonzero",
    "spread",
    "symmetric",
    "unaveraged",
]
