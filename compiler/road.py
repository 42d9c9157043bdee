"""What a graph goes through on its way from the exporter to a target: one road, which a compile, a calibration, a
snapshot and the benches all take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import onnx_ir as ir

from artifacts.errors import LatentcError, UsageError
from artifacts.progress import Progress, silent
from compiler.passes import pass_table
from compiler.passes.approximations import Approximation, approximations
from compiler.passes.lower_precision import lower_precision
from targets.graph.onnx_files import symbols
from targets.target_contract import Rewrite, Target

NONE = "none"

_NO_SIZES: Mapping[str, int] = MappingProxyType({})

Quantize = Callable[[ir.Model], ir.Model]
"""Puts quantized weights and activations into a graph in fp32; may change it in place."""


def unquantized(model: ir.Model) -> ir.Model:
    """Weights stay as they are."""
    return model


@dataclass(frozen=True)
class Arrived:
    """A graph that its target takes.

    Attributes:
        rewrites, approximations: names of those that changed something.
        kept: what stayed in fp32, with the reason, one line each.
    """

    model: ir.Model
    rewrites: tuple[str, ...]
    kept: tuple[str, ...]
    approximations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Road:
    """The steps, in their order: approximations, exact rewrites, quantization, precision, the target's passes.

    Two targets whose roads are equal get equal graphs.

    Attributes:
        precision: in which weights are stored: "fp32", "fp16" or "bf16".
        typed, passes: as in `targets.target_contract.Requirements`.
    """

    rewrites: tuple[Rewrite, ...]
    precision: str
    typed: str
    passes: tuple[str, ...]
    approximations: tuple[Approximation, ...] = ()

    @classmethod
    def to(
        cls,
        target: Target,
        precision: str,
        requested: str = "",
        compressed: bool = False,
        approximate: str = "",
    ) -> Road:
        """The road of a compile for `target`; the arguments are those of `chosen` and `approximations`.

        Raises:
            UsageError: what these raise.
        """
        requirements = target.requirements
        rewrites = chosen(target, precision, requested, compressed)
        return cls(
            rewrites,
            precision,
            requirements.typed,
            requirements.passes,
            approximations(target, approximate),
        )

    @property
    def name(self) -> str:
        """ "fp16 weights", with the target's passes and the rewrites that are tried."""
        changes = [step.name for step in self.approximations] + [step.name for step in self.rewrites]
        return "+".join((f"{self.precision} {self.typed}", *self.passes, *changes))

    def without_rewrites(self) -> Road:
        """For a graph that has been rewritten."""
        return replace(self, rewrites=(), approximations=())

    def run(
        self,
        model: ir.Model,
        quantize: Quantize = unquantized,
        progress: Progress = silent,
        *,
        read_weights: bool = True,
        largest: Mapping[str, int] = _NO_SIZES,
    ) -> Arrived:
        """Takes an exported graph, in fp32, to its target. Weights stay on disk; quantized ones are the callback's.

        Args:
            model: changed in place.
            read_weights: look for weights beyond the precision's range, which stay in fp32; without it those
                on disk count as within.
            largest: symbolic dimension -> its largest declared size, for approximations.
        """
        approximated = []
        for approximation in self.approximations:
            result = approximation.run(model, largest)
            model = result.model
            if result.modified:
                approximated.append(approximation.name)
        model, done = apply(model, self.rewrites)
        model = quantize(model)
        model, in_fp32 = lower_precision(
            model, self.precision, self.typed, progress, read_weights=read_weights
        )
        return Arrived(pass_table.run(model, self.passes), done, in_fp32, tuple(approximated))


def require_taken(target: Target, model: ir.Model, graph: str) -> None:
    """A graph at the end of its road is one that its target takes: of its opsets, and of one size where it must be.

    Args:
        graph: its name in the artifact.

    Raises:
        LatentcError: it is not.
    """
    low, high = target.requirements.opset
    version = model.opset_imports.get("", low)
    if not low <= version <= high:
        raise LatentcError(
            f"target '{target.name}' takes graphs of opset {low} to {high}; '{graph}' is of opset {version}.",
            "The target's package must widen its range, or name a pass in requirements.passes that changes the opset.",
        )
    ranges = sorted(symbols(model))
    if ranges and not target.requirements.dynamic_shapes:
        raise LatentcError(
            f"target '{target.name}' takes graphs of one size; '{graph}' has ranges: {', '.join(ranges)}.",
            "Declare one size: --size WIDTHxHEIGHT --batch N. A length that the pipeline chooses cannot be.",
        )


def apply(model: ir.Model, rewrites: tuple[Rewrite, ...]) -> tuple[ir.Model, tuple[str, ...]]:
    """The exported graph, in fp32, rewritten, and the names of what found something. No weight is read.

    Args:
        model: changed in place.
    """
    done = []
    for rewrite in rewrites:
        result = pass_table.load(rewrite.path)(model)
        model = result.model
        if result.modified:
            done.append(rewrite.name)
    return pass_table.run(model, ("dead",)) if done else model, tuple(done)


def chosen(
    target: Target, precision: str, requested: str = "", compressed: bool = False
) -> tuple[Rewrite, ...]:
    """The rewrites of a graph, in the order in which they run.

    Args:
        requested: names with commas between them, "none", or empty for those that are on.
        compressed: the graph's weights are in fewer bits, and its activations are not.

    Raises:
        UsageError: the target has no such rewrite.
    """
    offered = target.requirements.rewrites
    if not requested:
        return tuple(r for r in offered if precision in r.on and (r.compressed or not compressed))
    if requested == NONE:
        return ()
    names = {name.strip() for name in requested.split(",")}
    if unknown := sorted(names - {r.name for r in offered}):
        available = ", ".join((*(r.name for r in offered), f"or {NONE} alone"))
        raise UsageError(
            f"target '{target.name}' has no rewrite '{unknown[0]}' (it has: {available}).",
            f"For instance: --rewrites {offered[0].name if offered else NONE}",
        )
    return tuple(r for r in offered if r.name in names)
