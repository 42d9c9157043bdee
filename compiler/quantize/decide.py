"""What becomes of one weight: the scheme that was asked for, or the nearest that fits it, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compiler.quantize import low_rank, scheme_table
from compiler.quantize.find import Layout
from compiler.quantize.scheme import NO_METHOD, Activations, Format, Misfit, Scheme, SchemeOptions

NONE = "none"
"""What weights are called that stay in the graph's precision."""


@dataclass(frozen=True)
class Decision:
    """A scheme with its options; None leaves the weight in the graph's precision.

    Attributes:
        note: why it is not what was asked for; empty where it is.
        fallback: whether the scheme is another than the one that was asked for.
    """

    scheme: Scheme[Any] | None
    options: SchemeOptions = field(default_factory=SchemeOptions)
    note: str = ""
    fallback: bool = False

    @property
    def name(self) -> str:
        """The scheme's."""
        return NONE if self.scheme is None else self.scheme.name

    @property
    def label(self) -> str:
        """As a user would write it: "int4:group=64"."""
        return NONE if self.scheme is None else self.scheme.label(self.options)

    @property
    def format(self) -> Format | None:
        """How the values lie on disk."""
        return None if self.scheme is None else self.scheme.format(self.options)

    @property
    def activations(self) -> Activations | None:
        """What the scheme wants of the layer's input; None where that stays a float."""
        return None if self.scheme is None else self.scheme.activations(self.options)

    @property
    def low_rank(self) -> int:
        """Rank of the correction, 0 for none."""
        return self.options.low_rank

    @property
    def method(self) -> str:
        """The algorithm that chooses the values by the data; empty for none."""
        return "" if self.options.method == NO_METHOD else self.options.method

    def bytes(self, layout: Layout) -> int:
        """What the weight takes on disk: values, scales, zero points and correction."""
        form = self.format
        if form is None:
            return 2 * layout.rows * layout.inner
        return form.bytes(layout) + 2 * self.low_rank * (layout.rows + layout.inner)

    def without_method(self, why: str) -> Decision:
        """The same without its method, and the reason."""
        return self._with(Misfit(f"no {self.method}: {why}", self.options.replaced(method=NO_METHOD)))

    def fall_back(self, why: str) -> Decision:
        """What the weight has in place of this scheme, and the reason."""
        if self.scheme is None or not self.scheme.fallback:
            return Decision(None, note=f"not quantized: {why}", fallback=True)
        scheme = scheme_table.get(self.scheme.fallback)
        decision = Decision(scheme, scheme.default(), fallback=True)
        loses_activations = self.activations is not None and decision.activations is None
        name = f"{scheme.name} weights only" if loses_activations else scheme.name
        return replace(decision, note=f"{name}: {why}")

    def _with(self, misfit: Misfit) -> Decision:
        """What it becomes where it does not fit."""
        if misfit.options is None:
            return self.fall_back(misfit.why)
        note = f"{self.note}; {misfit.why}" if self.note else misfit.why
        return replace(self, options=misfit.options, note=note)


def decide(scheme: str, options: SchemeOptions, layout: Layout) -> Decision:
    """The scheme for a weight of this layout, or what it falls back to."""
    decision = Decision(scheme_table.get(scheme), options)
    while (misfit := _misfit(decision, layout)) is not None:
        decision = decision._with(misfit)
    return decision


def _misfit(decision: Decision, layout: Layout) -> Misfit | None:
    if decision.scheme is None:
        return None
    misfit = decision.scheme.misfit(layout, decision.options)
    if misfit is None and decision.low_rank and (why := low_rank.unfit(decision.low_rank, layout)):
        return Misfit(f"no low rank: {why}", decision.options.replaced(low_rank=0))
    if misfit is None and decision.method and layout.kind != "linear":
        return Misfit(f"no {decision.method}: {layout.article}", decision.options.replaced(method=NO_METHOD))
    return misfit


def spare_small(decisions: Sequence[tuple[int, Decision]]) -> list[Decision]:
    """The decisions for a whole graph, with its smallest weights spared as the option `small` asks.

    Those that were to be in fewer bits than their scheme's fallback take that, others are left alone.

    Args:
        decisions: elements of each weight, and what was decided for it alone.
    """
    total = sum(size for size, _ in decisions)
    result = [decision for _, decision in decisions]
    spent = 0
    for index in sorted(range(len(decisions)), key=lambda i: decisions[i][0]):
        size, decision = decisions[index]
        share = decision.options.small
        # A fallback is already more than was asked for.
        if not share or decision.fallback:
            continue
        spent += size
        if spent * 100 > total * share:
            break
        why = f"among the smallest weights, which hold {share}% of the parameters"
        result[index] = _spared(decision, why)
    return result


def _spared(decision: Decision, why: str) -> Decision:
    more, form = decision.fall_back(why), decision.format
    if form is None or more.format is None or more.format.element.bitwidth <= form.element.bitwidth:
        return Decision(None, note=f"not quantized: {why}", fallback=True)
    return more
