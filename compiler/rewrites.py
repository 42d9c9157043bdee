"""Exact rewrites that make a graph faster on one target and not on another: which there are, and where each is on.

Images differ by rounding only. `python -m bench.rewrites` measures them again; docs/speed.md has what it printed, and
what was tried and did not pay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artifacts.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

NONE = "none"

ANY = frozenset({"fp32", "fp16", "bf16"})


@dataclass(frozen=True)
class Rewrite:
    """One pass of `compiler.passes.table`, of the same name.

    Attributes:
        summary: what it does, for people.
        on: target -> precisions in which it is on by default.
        runs: targets whose runtime can run the result.
        why: for people: what it gains where it is on, and why it is off elsewhere.
        compressed: whether it is on, too, where weights alone are in fewer bits, so that they are small.
    """

    summary: str
    on: Mapping[str, frozenset[str]]
    runs: frozenset[str]
    why: str
    compressed: bool = True


REWRITES: Mapping[str, Rewrite] = {
    "split-linear": Rewrite(
        "a linear layer whose result is only cut into parts (GEGLU) becomes one for each part",
        on={"openvino": ANY, "onnxruntime": ANY},
        runs=frozenset({"openvino", "onnxruntime", "tensorrt", "directml"}),
        why="no copy of the activations, which OpenVINO makes with a reference kernel",
    ),
    "sub-pixel-conv": Rewrite(
        "a convolution of a picture enlarged by repeating pixels becomes smaller ones of the picture itself",
        on={"openvino": ANY, "onnxruntime": ANY},
        runs=frozenset({"openvino", "onnxruntime", "tensorrt", "directml"}),
        why="4/9 of the multiplications, for twice the size and 3x3 taps; their weights become 16/9, and sums of taps "
        "lose more in few bits than the taps: a pattern that the eye sees",
        compressed=False,
    ),
    "multi-head-attention": Rewrite(
        "attention without a mask becomes ONNX Runtime's MultiHeadAttention",
        on={"onnxruntime": ANY},
        runs=frozenset({"onnxruntime"}),
        why="its kernel never holds all scores, and needs no transposes; other runtimes fuse attention themselves",
    ),
    "instance-norm": Rewrite(
        "group norms become instance norms of whole groups, then a product and a sum",
        on={"onnxruntime": ANY},
        runs=frozenset({"onnxruntime", "openvino"}),
        why="its CPU has no kernel for group norms and takes them apart; OpenVINO has one",
    ),
    "pad-heads": Rewrite(
        "attention heads of 33 to 63 are padded with zeros to 64, in the weights",
        on={},
        runs=frozenset({"openvino", "onnxruntime"}),
        why="pays in bf16 on processors with AMX, whose tiles are 32 deep; others only multiply the zeros",
    ),
}


def chosen(target: str, precision: str, asked: str = "", compressed: bool = False) -> tuple[str, ...]:
    """The rewrites of a graph, in the order in which they run.

    Args:
        compressed: the graph's weights are in fewer bits, and its activations are not.
        asked: names with commas between them, "none", or empty for those that are on.

    Raises:
        UsageError: there is no such rewrite, or the target cannot run its result.
    """
    if not asked:
        on = (name for name, each in REWRITES.items() if precision in each.on.get(target, ()))
        return tuple(name for name in on if REWRITES[name].compressed or not compressed)
    if asked == NONE:
        return ()
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in REWRITES:
            raise UsageError(
                f"there is no rewrite '{name}' (there are: {', '.join(REWRITES)}, or {NONE} alone).",
                f"For instance: --rewrites {next(iter(REWRITES))}",
            )
        if target not in REWRITES[name].runs:
            there = ", ".join(sorted(REWRITES[name].runs))
            raise UsageError(f"the rewrite '{name}' is for {there}; found --target {target}.")
    return tuple(name for name in REWRITES if name in names)


def apply(model: ir.Model, names: tuple[str, ...]) -> tuple[ir.Model, tuple[str, ...]]:
    """The exported graph, in fp32, rewritten, and the rewrites that found something. No weight is read.

    Args:
        model: changed in place.
    """
    from compiler.passes import table

    done = []
    for name in names:
        result = table.make(name)(model)
        model = result.model
        if result.modified:
            done.append(name)
    return table.run(model, ("dead",)) if done else model, tuple(done)
