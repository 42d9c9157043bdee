"""The precision that a user asked for, as passes: which of the two forms a target wants, and what stays in fp32."""

from __future__ import annotations

import onnx_ir as ir

from artifacts.progress import Progress, silent
from compiler.passes.precision import out_of_range
from compiler.passes.precision_strong import PrecisionStrongPass, StrongOptions
from compiler.passes.precision_weights import PrecisionWeightsPass, WeightOptions


def lower_precision(
    model: ir.Model, precision: str, typed: str, progress: Progress = silent, *, read_weights: bool = True
) -> tuple[ir.Model, tuple[str, ...]]:
    """The graph in `precision`, and what was kept in fp32 with the reason, one line each.

    Args:
        typed: "weights" or "strong", as in `targets.target_contract.Requirements`.
        read_weights: look for weights beyond the precision's range; without it those on disk count as within.
    """
    if precision == "fp32":
        return model, ()
    large = out_of_range(model, precision, progress, read_weights=read_weights)
    notes = tuple(f"{name}: holds {peak:.3g}, beyond {precision}'s range" for name, peak in large.items())
    keep = frozenset(large)
    if typed == "strong":
        return PrecisionStrongPass(StrongOptions(precision=precision, keep=keep))(model).model, notes
    return PrecisionWeightsPass(WeightOptions(precision=precision, keep=keep))(model).model, notes
