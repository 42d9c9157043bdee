from __future__ import annotations

import math

import pytest

from artifacts.errors import LatentcError, UsageError
from bench import gates
from bench.gates import METRICS, Gate, check, parse
from bench.record import Measured
from tests.bench.benches import made, variant


def fallen(*args: object, **given: object) -> list[str]:
    return [fall.gate.text for fall in check(*args, **given)]  # type: ignore[arg-type]


def test_parse() -> None:
    assert parse("psnr<30") == Gate("psnr<30", "psnr", "<", 30.0, False)
    assert parse(" step_ms >= 1.05x ") == Gate("step_ms >= 1.05x", "step_ms", ">=", 1.05, True)
    assert parse("latent_error>1e-3").limit == 1e-3


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("psnr", "is no gate", "psnr<30"),
        ("psnr=30", "is no gate", ""),
        ("psnr<1e999", "is no gate", ""),
        ("psnr<-1", "is no gate", ""),
        ("pnsr<30", "no metric 'pnsr'", "Did you mean 'psnr'?"),
        ("psnr<30x5", "is no gate", ""),
    ],
)
def test_wrong_gates(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        parse(text)
    assert hint in raised.value.hint


def test_the_default_gates_parse() -> None:
    assert [parse(text).metric for text in gates.DEFAULT_GATES]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_found_in_a_record_or_says_why_not(name: str) -> None:
    found = METRICS[name].take(variant())
    assert (found is None) == (name in ("lpips", "clip_score", "fid"))


def test_plain_gates_are_of_the_figure_itself() -> None:
    bench = made(variant(psnr=31.0))
    assert fallen(bench, [parse("psnr<30"), parse("psnr<=31"), parse("psnr>40")]) == ["psnr<=31"]


def test_the_reference_is_not_held_to_gates() -> None:
    bench = made(variant(step=150.0))
    assert [f.variant for f in check(bench, [parse("step_ms>10")])] == ["out"]


def test_what_was_not_measured_is_not_good_enough() -> None:
    (fall,) = check(made(variant()), [parse("lpips>0.5")])
    assert fall.measured is None and fall.reason == "its weights are not on disk"
    (fall,) = check(made(variant(speed=None, quality=None, error="killed")), [parse("psnr<1")])
    assert fall.reason == "killed"


def test_a_ratio_without_a_baseline_is_to_the_reference() -> None:
    bench = made(variant(step=100.0))  # The reference takes 200.
    assert fallen(bench, [parse("step_ms>0.49x"), parse("step_ms>0.51x"), parse("bytes>0.4x")]) == [
        "step_ms>0.49x",
        "bytes>0.4x",
    ]


def test_a_ratio_of_times_to_a_baseline_is_taken_within_each_run() -> None:
    """A machine that is half as fast today slows both; only what lost against the reference falls."""
    before = made(variant(step=100.0), reference=200.0)
    slow_day = made(variant(step=200.0, speed=_speed(200.0, 0.5)), reference=400.0)
    slower = made(variant(step=110.0, speed=_speed(110.0, 0.55)), reference=200.0)
    gate = [parse("step_ms>1.05x")]
    assert fallen(slow_day, gate, before) == []
    assert fallen(slower, gate, before) == ["step_ms>1.05x"]


def _speed(step: float, ratio: float) -> object:
    speed = variant(step=step).speed
    assert speed is not None
    return speed.model_copy(update={"step_ratio": Measured(value=ratio)})


def test_load_times_are_ratios_of_ratios_too() -> None:
    (fall,) = check(made(variant()), [parse("load_s>0.9x")])
    assert fall.measured == 1.0


def test_bytes_are_compared_with_the_baseline_as_they_are() -> None:
    before, now = made(variant(bytes=1000)), made(variant(bytes=1100))
    assert fallen(now, [parse("bytes>1.05x"), parse("bytes>1.2x")], before) == ["bytes>1.05x"]


def test_two_infinite_psnrs_are_equal() -> None:
    before = made(variant(psnr=math.inf))
    assert fallen(made(variant(psnr=math.inf)), [parse("psnr<0.95x")], before) == []
    assert fallen(made(variant(psnr=60.0)), [parse("psnr<0.95x")], before) == ["psnr<0.95x"]


def test_a_ratio_of_times_needs_a_reference() -> None:
    with pytest.raises(LatentcError, match="reference of the same run"):
        check(made(variant(), reference=None), [parse("step_ms>1.05x")])


@pytest.mark.parametrize("changes", [{"steps": 9}, {"prompts": ("c",)}, {"seeds": (5,)}, {"guidance": 2.0}])
def test_a_baseline_of_other_pictures_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(LatentcError, match="must be drawn like this bench") as raised:
        check(made(variant()), [parse("psnr<1x")], made(variant(), **changes))
    assert "latentc bench out" in raised.value.hint


def test_variants_are_found_by_name_or_as_the_only_ones() -> None:
    now = made(variant("new", bytes=1100))
    assert fallen(now, [parse("bytes>1.05x")], made(variant("old"))) == ["bytes>1.05x"]
    with pytest.raises(LatentcError, match="the baseline has no 'new'"):
        check(now, [parse("bytes>1.05x")], made(variant("old"), variant("older")))
