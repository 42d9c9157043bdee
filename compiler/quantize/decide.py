"""What becomes of one weight: the scheme that was asked for, or the nearest that fits it, with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compiler.quantize import table
from compiler.quantize.find import Layout
from compiler.quantize.int4 import NO_METHOD

GROUPS = (128, 64, 32)
NARROWS = 8
"""From this many input channels for each output channel on, a layer is an output of the network: what is wrong there
nothing later makes good. Measured on the built-in model: its last convolution in four bits costs 4 dB."""

_KINDS = {"conv": "a convolution", "transposed conv": "a transposed convolution", "embedding": "an embedding"}


@dataclass(frozen=True)
class Decision:
    """A scheme with its options; `note` says why it is not the one that was asked for.

    The scheme "none", without options, leaves the weight in the graph's precision.
    """

    scheme: str
    options: Any
    note: str = ""

    @property
    def label(self) -> str:
        """As a user would write it: "int4:group=64"; what is as by default is left out, but for the group."""
        if self.options is None:
            return self.scheme
        default = type(self.options)()
        parts = [
            f.name if value is True else f"{f.name}={value}"
            for f in dataclasses.fields(self.options)
            if (value := getattr(self.options, f.name)) != getattr(default, f.name) or f.name == "group"
        ]
        return self.scheme + (":" + ",".join(parts) if parts else "")

    @property
    def low_rank(self) -> int:
        """Rank of the correction, 0 for none."""
        return int(getattr(self.options, "low_rank", 0))

    @property
    def method(self) -> str:
        """The algorithm that chooses the values by the data; empty for none."""
        found = getattr(self.options, "method", NO_METHOD)
        return "" if found == NO_METHOD else str(found)

    def without_method(self, why: str) -> Decision:
        """The same without its method, and the reason."""
        options = dataclasses.replace(self.options, method=NO_METHOD)
        note = f"no {self.method}: {why}"
        return Decision(self.scheme, options, f"{self.note}; {note}" if self.note else note)


def decide(scheme: str, options: Any, layout: Layout) -> Decision:
    """The scheme for a weight of this layout."""
    if scheme == "int8":
        return Decision(scheme, options)
    if scheme == "int8-activations":
        if layout.kind in ("linear", "conv"):
            return Decision(scheme, options)
        return Decision("int8", table.get("int8").options(), f"int8 weights only: {_KINDS[layout.kind]}")
    if layout.kind == "transposed conv":
        return _int8(_KINDS[layout.kind])
    if scheme == "nf4" and layout.kind != "linear":
        return _int8(f"no runtime reads nf4 in {_KINDS[layout.kind]}")
    if layout.kind != "embedding" and layout.inputs >= NARROWS * layout.rows:
        return _int8(f"{layout.inputs} inputs to {layout.rows} outputs: errors there are not averaged")
    block, note = table.get(scheme).block(options), ""
    if block is not None and layout.inner % block:
        smaller = [group for group in GROUPS if group < block and not layout.inner % group]
        if scheme == "nf4" or not smaller:
            least = block if scheme == "nf4" else GROUPS[-1]
            return _int8(f"{layout.inner} inputs are no multiple of {least}")
        note = f"group {smaller[0]}: {layout.inner} inputs are no multiple of {block}"
        options = dataclasses.replace(options, group=smaller[0])
    rank = options.low_rank
    if rank:
        why = _no_low_rank(rank, layout)
        if why:
            options = dataclasses.replace(options, low_rank=0)
            note = f"{note}; {why}" if note else why
    made = Decision(scheme, options, note)
    return made.without_method(_KINDS[layout.kind]) if made.method and layout.kind != "linear" else made


def spare_small(decisions: Sequence[tuple[int, Decision]]) -> list[Decision]:
    """The decisions for a whole graph, with its smallest weights spared as the option `small` asks.

    Those that were to be in four bits are at int8, those that were to be at int8 are left alone.

    Args:
        decisions: elements of each weight, and what was decided for it alone.
    """
    total = sum(size for size, _ in decisions)
    result = [decision for _, decision in decisions]
    spent = 0
    for index in sorted(range(len(decisions)), key=lambda i: decisions[i][0]):
        size, decision = decisions[index]
        share = getattr(decision.options, "small", 0)
        eight = decision.scheme.startswith("int8")
        # Eight bits with a note are already more than was asked for.
        if not share or (eight and decision.note):
            continue
        spent += size
        if spent * 100 > total * share:
            break
        why = f"among the smallest weights, which hold {share}% of the parameters"
        result[index] = Decision("none", None, f"not quantized: {why}") if eight else _int8(why)
    return result


def _int8(why: str) -> Decision:
    return Decision("int8", table.get("int8").options(), f"int8: {why}")


def _no_low_rank(rank: int, layout: Layout) -> str:
    if layout.kind == "embedding":
        return "no low rank: an embedding"
    if layout.groups != 1:
        return "no low rank: a grouped convolution"
    # Above that the correction in fp16 takes more than the four bits it corrects.
    if rank * (layout.rows + layout.inner) * 4 > layout.rows * layout.inner:
        return f"no low rank: {layout.rows}x{layout.inner} is too small for rank {rank}"
    return ""


def stored_bytes(decision: Decision, layout: Layout) -> int:
    """What the weight takes on disk: values, scales, zero points and correction."""
    if decision.options is None:
        return 2 * layout.rows * layout.inner
    scheme, options = table.get(decision.scheme), decision.options
    element = scheme.element(options)
    size = (layout.rows * layout.inner * element.bitwidth + 7) // 8
    block = scheme.block(options)
    blocks = layout.rows * (1 if block is None else layout.inner // block)
    size += blocks * (2 if getattr(options, "scales", "fp32") == "fp16" else 4)
    if getattr(options, "asymmetric", False):
        size += (blocks * element.bitwidth + 7) // 8
    return size + 2 * decision.low_rank * (layout.rows + layout.inner)
