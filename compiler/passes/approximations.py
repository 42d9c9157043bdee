"""Graph passes after which pictures are others, if only a little: off unless asked for, and told in the manifest.

An approximation leaves out what a picture does not need. What it does to pictures is measured where it is used, never
assumed: a compile compares them with PyTorch's.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from artifacts.errors import UsageError
from targets.target_contract import Target


@dataclass(frozen=True)
class Approximation:
    """One of them.

    Attributes:
        name: as `--approximate` takes it.
        path: "module:class" of its pass, an `onnx_ir.passes.PassBase` made with the largest declared sizes (symbolic
            dimension -> size).
        summary: what it does, for people.
        tolerance: largest ``||out - ref|| / ||ref||`` of a graph's output, against PyTorch in fp32, that it may cause;
            a wrong graph gives about 1.
    """

    name: str
    path: str
    summary: str
    tolerance: float

    def run(self, model: ir.Model, largest: Mapping[str, int]) -> ir.passes.PassResult:
        """The graph with it, changed in place, and whether it found something."""
        module, _, attribute = self.path.partition(":")
        result: ir.passes.PassResult = getattr(importlib.import_module(module), attribute)(largest)(model)
        return result


APPROXIMATIONS: Mapping[str, Approximation] = {
    approximation.name: approximation
    for approximation in (
        Approximation(
            "pooled-keys",
            "compiler.passes.pooled_keys:PooledKeysPass",
            "self-attention over the tokens of a large picture reads keys and values averaged over 2x2 neighbours",
            tolerance=0.5,
        ),
    )
}
"""By name, in the order in which they run."""


def approximations(target: Target, requested: str) -> tuple[Approximation, ...]:
    """Those of a compile.

    Args:
        requested: names with commas between them; empty for none.

    Raises:
        UsageError: there is no such approximation, or the target does not take it.
    """
    names = {name.strip() for name in requested.split(",")} if requested else set()
    offered = [name for name in APPROXIMATIONS if name in target.requirements.approximations]
    if unknown := sorted(names - set(offered)):
        raise UsageError(
            f"target '{target.name}' has no approximation '{unknown[0]}' (it has: {', '.join(offered) or 'none'}).",
            f"For instance: --approximate {offered[0]}" if offered else "Leave --approximate out",
        )
    return tuple(APPROXIMATIONS[name] for name in offered if name in names)


def tolerances(names: tuple[str, ...]) -> dict[str, float]:
    """Approximation -> its tolerance, of those that are known here; another version may have had others."""
    return {name: APPROXIMATIONS[name].tolerance for name in names if name in APPROXIMATIONS}
