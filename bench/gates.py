"""Gates for continuous integration: what of a bench is not good enough, alone or against an earlier one."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from artifacts.errors import LatentcError, UsageError
from bench.record import Bench, Measured, Quality, Start, Variant

DEFAULT_GATES = ("step_ms>1.10x", "psnr<0.95x", "bytes>1.05x", "memory>1.15x", "broken>0")
"""What `--baseline` alone is held to."""


@dataclass(frozen=True)
class Metric:
    """One figure of a variant.

    Attributes:
        take: the figure, or None where it was not measured.
        time: whether it depends on how fast the machine was: ratios of it are taken within one run first.
        digits: how it is shown.
    """

    take: Callable[[Variant], float | None]
    unit: str = ""
    time: bool = False
    digits: int = 3


def _quality(name: str, worst: bool = False) -> Callable[[Variant], float | None]:
    def take(variant: Variant) -> float | None:
        if variant.quality is None:
            return None
        figure: Measured = getattr(variant.quality, name)
        return figure.worst if worst else figure.value

    assert name in Quality.model_fields
    return take


def _start(which: str, take: Callable[[Start], float | None]) -> Callable[[Variant], float | None]:
    def inner(variant: Variant) -> float | None:
        start: Start | None = getattr(variant, which)
        return None if start is None else take(start)

    return inner


def _step(variant: Variant) -> float | None:
    speed = variant.speed
    return None if speed is None or speed.step_ms is None else speed.step_ms.median


METRICS: Mapping[str, Metric] = {
    "step_ms": Metric(_step, "ms", time=True),
    "image_s": Metric(lambda v: v.speed.image_s.median if v.speed else None, "s", time=True),
    "load_s": Metric(_start("warm", lambda s: s.load_s), "s", time=True),
    "load_cold_s": Metric(_start("cold", lambda s: s.load_s), "s", time=True),
    "first_step_s": Metric(_start("cold", lambda s: s.first_step_s), "s", time=True),
    "first_image_s": Metric(_start("cold", lambda s: s.first_image_s), "s", time=True),
    "memory": Metric(_start("warm", lambda s: s.memory.total), "bytes", digits=0),
    "memory_anonymous": Metric(_start("warm", lambda s: s.memory.anonymous), "bytes", digits=0),
    "memory_cold": Metric(_start("cold", lambda s: s.memory.total), "bytes", digits=0),
    "bytes": Metric(lambda v: v.bytes, "bytes", digits=0),
    "psnr": Metric(_quality("psnr"), "dB", digits=2),
    "psnr_worst": Metric(_quality("psnr", worst=True), "dB", digits=2),
    "ssim": Metric(_quality("ssim"), digits=4),
    "ms_ssim": Metric(_quality("ms_ssim"), digits=4),
    "latent_error": Metric(_quality("latent_error"), digits=5),
    "broken": Metric(_quality("broken")),
    "equal": Metric(_quality("equal")),
    "prompt_accuracy": Metric(_quality("prompt_accuracy")),
    "lpips": Metric(_quality("lpips"), digits=4),
    "clip_score": Metric(_quality("clip_score"), digits=2),
    "fid": Metric(_quality("fid"), digits=2),
}


@dataclass(frozen=True)
class Gate:
    """Fails a variant whose `metric` is `sign` `limit`; `times`: the limit is a ratio."""

    text: str
    metric: str
    sign: str
    limit: float
    times: bool

    def fails(self, value: float | None) -> bool:
        """Whether a value is not good enough. What was not measured never is."""
        if value is None or math.isnan(value):
            return True
        return {
            "<": value < self.limit,
            "<=": value <= self.limit,
            ">": value > self.limit,
            ">=": value >= self.limit,
        }[self.sign]


@dataclass(frozen=True)
class Fall:
    """A variant that a gate failed. `measured` is the figure or ratio; None where there is none."""

    variant: str
    gate: Gate
    measured: float | None
    value: float | None
    against: float | None
    reason: str = ""


def parse(text: str) -> Gate:
    """`psnr<30`, `step_ms>1.05x`.

    Raises:
        UsageError: it is no such thing, or there is no such metric.
    """
    match = re.fullmatch(r"\s*([a-z_]+)\s*(<=|>=|<|>)\s*([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)(x?)\s*", text)
    if match is None or not math.isfinite(float(match[3])):
        raise UsageError(
            f"'{text}' is no gate; expected METRIC<NUMBER or METRIC>NUMBER, with an x for a ratio.",
            "For instance: --fail-if 'psnr<30' --fail-if 'step_ms>1.05x'",
        )
    name, sign, limit, times = match.groups()
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1)
        raise UsageError(
            f"there is no metric '{name}' (there are: {', '.join(METRICS)}).",
            f"Did you mean '{near[0]}'?" if near else "",
        )
    return Gate(text.strip(), name, sign, float(limit), bool(times))


def comparable(bench: Bench, baseline: Bench) -> None:
    """Raises LatentcError unless the baseline drew the same pictures as the bench."""
    for name in ("prompts", "seeds", "steps", "guidance", "size", "task"):
        ours, theirs = getattr(bench.settings, name), getattr(baseline.settings, name)
        if ours != theirs:
            shown = f"{len(theirs)} other" if name == "prompts" else theirs
            raise LatentcError(
                f"the baseline must be drawn like this bench; its {name} are {shown}"
                + ("." if name == "prompts" else f", here {ours}."),
                f"It was made with: {' '.join(baseline.command)}",
            )


def check(bench: Bench, gates: Sequence[Gate], baseline: Bench | None = None) -> tuple[Fall, ...]:
    """What falls short, of every variant but the reference.

    A ratio is to the baseline's figure; of a time, each is first divided by the reference's of its own run, so
    that another machine or another day makes no difference. Without a baseline it is to the reference of this run.

    Raises:
        LatentcError: a ratio was asked for and there is nothing to take it to.
    """
    if baseline is not None:
        comparable(bench, baseline)
    falls = []
    for variant in bench.variants:
        if variant.name == bench.reference:
            continue
        for gate in gates:
            value = METRICS[gate.metric].take(variant)
            against = _against(bench, baseline, variant, gate) if gate.times else None
            figure = ratio(bench, baseline, variant, gate.metric) if gate.times else value
            if gate.fails(figure):
                falls.append(Fall(variant.name, gate, figure, value, against, _reason(variant, gate, figure)))
    return tuple(falls)


def ratio(bench: Bench, baseline: Bench | None, variant: Variant, metric: str) -> float | None:
    """How many times the baseline's (or the reference's) figure a variant's is, as `check` takes it.

    Raises:
        LatentcError: there is nothing to take it to.
    """
    own = _to_reference(bench, variant, metric) if METRICS[metric].time or baseline is None else None
    if baseline is None:
        return own
    old = _counterpart(baseline, variant, bench)
    if METRICS[metric].time:
        return _divide(own, _to_reference(baseline, old, metric))
    return _divide(METRICS[metric].take(variant), METRICS[metric].take(old))


def _to_reference(bench: Bench, variant: Variant, metric: str) -> float | None:
    reference = bench.variant(bench.reference) if bench.reference else None
    if reference is None:
        raise LatentcError(
            f"a ratio of {metric} is taken to the reference of the same run, and there was none.",
            "Add: --reference MODEL (to the baseline's run too)",
        )
    if metric == "step_ms" and variant.speed and variant.speed.step_ratio:
        return variant.speed.step_ratio.value
    return _divide(METRICS[metric].take(variant), METRICS[metric].take(reference))


def _counterpart(baseline: Bench, variant: Variant, bench: Bench) -> Variant:
    """The baseline's variant of the same name, or the only one where each has only one."""
    counterpart = baseline.variant(variant.name)
    if counterpart is not None:
        return counterpart
    theirs = [other for other in baseline.variants if other.name != baseline.reference]
    ours = [other for other in bench.variants if other.name != bench.reference]
    if len(theirs) == len(ours) == 1:
        return theirs[0]
    raise LatentcError(
        f"the baseline has no '{variant.name}' (it has: {', '.join(other.name for other in theirs)}).",
        "Bench artifacts of the same folder names, or make the baseline again.",
    )


def _against(bench: Bench, baseline: Bench | None, variant: Variant, gate: Gate) -> float | None:
    """The figure that a ratio is to, for people."""
    other = _counterpart(baseline, variant, bench) if baseline else bench.variant(bench.reference or "")
    return None if other is None else METRICS[gate.metric].take(other)


def _divide(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or denominator is None:
        return None
    if numerator == denominator:
        return 1.0
    return math.inf if denominator == 0 else numerator / denominator


def _reason(variant: Variant, gate: Gate, figure: float | None) -> str:
    if figure is not None:
        return ""
    base = gate.metric.removesuffix("_worst")
    if variant.error:
        return variant.error
    if variant.quality is not None and base in type(variant.quality).model_fields:
        why: str = getattr(variant.quality, base).reason
        return why
    return "not measured"
