"""Which ways to be faster a search keeps, on figures that are made up, and what is remembered of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from artifacts.errors import LatentcError
from artifacts.evidence_records import ForecastRun
from artifacts.progress import Progress
from compiler.speed_gate import Gate
from compiler.speed_search import FORECAST, Combination, NothingFaster, SpeedSearch, Unchanged, Way

SPEED = {"bf16": 1.6, "8 threads": 1.0, "unet=int8": 1.4, "vae=int8": 1.05, "pooled-keys": 1.15}
LOSS = {"bf16": 50.0, "8 threads": 100.0, "unet=int8": 48.0, "vae=int8": 40.0, "pooled-keys": 55.0}
"""Seconds by default over seconds with it, and dB, of each by itself; squared errors add up."""

WAYS = (
    Way.compute("bf16"),
    Way.threads(8),
    Way.quantized("unet", "int8"),
    Way.quantized("vae", "int8"),
    Way.approximated("pooled-keys"),
    FORECAST,
)


@dataclass
class FakeDrawer:
    """Figures by way; `others` are dB that are lost on prompts that nothing was chosen by."""

    levels: Mapping[float, float] = field(default_factory=lambda: {0.1: 60.0, 0.2: 52.0, 0.4: 45.5})
    others: float = 0.0
    nothing: frozenset[str] = frozenset()
    stop_after: int = 1000
    asked: list[tuple[str, str]] = field(default_factory=list)

    def figures(self, combination: Combination) -> tuple[float, float]:
        speed, error = 1.0, 1e-10
        names = [name for name in SPEED if name in str(combination).split(", ")]
        for name in names:
            speed, error = speed * SPEED[name], error + 10 ** (-LOSS[name] / 10)
        if combination.tolerance:
            speed *= 1.5 + combination.tolerance
            error += 10 ** (-self.levels[combination.tolerance] / 10)
        return speed, -10 * math.log10(error)

    def runs(
        self, combination: Combination, prompts: Sequence[str], progress: Progress
    ) -> tuple[ForecastRun, ...]:
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        if self.nothing & set(str(combination).split(", ")):
            raise Unchanged("it changes nothing")
        self.asked.append((str(combination), prompts[0]))
        speed, psnr = self.figures(combination)
        psnr -= self.others if prompts[0] == "other" else 0.0
        return (
            ForecastRun(
                prompts=1,
                steps=20,
                width=8,
                height=8,
                compute="fp32",
                device="cpu",
                calls=20,
                calls_made=12,
                psnr=psnr,
                worst_psnr=psnr - 2,
                ssim=1.0,
                worst_ssim=1.0,
                seconds=1 / speed,
                seconds_unaccelerated=1.0,
            ),
        )

    def tolerance(self, combination: Combination, prompts: Sequence[str]) -> float:
        holding = []
        for level in self.levels:
            _, psnr = self.figures(Combination(**{**vars(combination), "tolerance": level}))
            if psnr >= 45:
                holding.append(level)
        return max(holding, default=0.0)

    def lower(self, tolerance: float) -> float:
        return max((level for level in self.levels if level < tolerance), default=0.0)


def search(
    drawer: FakeDrawer, min_psnr: float = 45.0, ways: Sequence[Way] = WAYS, alone: bool = True
) -> SpeedSearch:
    return SpeedSearch(drawer, ways, Gate(min_psnr, ()), ["chosen by"], ["other"], alone=alone)


def test_ways_are_put_together_by_what_they_gain_for_what_they_lose() -> None:
    found = search(FakeDrawer())
    combination, runs = found.fastest()
    assert str(combination) == "bf16, pooled-keys, forecast 0.2"
    assert runs[0].psnr >= 45 and found.best == combination
    reasons = {trial.way: trial.reason for trial in found.trials if not trial.kept}
    assert reasons == {"8 threads": "not faster", "vae=int8": "too far", "unet=int8": "too far"}
    last = found.trials[-1]
    assert (last.way, last.combination, last.kept) == ("verification", str(combination), True)
    kept = [trial.speed_up for trial in found.trials if trial.combination == str(combination)]
    assert kept[0] == pytest.approx(1.6 * 1.15 * 1.7)


def test_where_pictures_take_long_ways_are_put_together_as_they_come() -> None:
    drawer = FakeDrawer()
    found = search(drawer, alone=False)
    combination, _ = found.fastest()
    assert str(combination) == "bf16, unet=int8, pooled-keys, forecast 0.1"
    tried = [trial.combination for trial in found.trials]
    assert tried[:2] == ["bf16", "bf16, 8 threads"] and "unet=int8" not in tried
    assert [trial.reason for trial in found.trials if not trial.kept] == ["not faster", "too far"]
    assert len(drawer.asked) == 7  # each way once, and the verification
    assert {trial.pictures for trial in found.trials if trial.measured} == {1}


def test_other_programs_do_not_count_where_as_many_threads_compute() -> None:
    class Busy(FakeDrawer):
        def runs(self, *arguments: Any) -> tuple[ForecastRun, ...]:
            (run,) = super().runs(*arguments)
            took = {"processor_seconds": run.seconds, "processor_seconds_unaccelerated": 1.0}
            return (run.model_copy(update={**took, "seconds": 3.0}),)

    found = search(Busy(), ways=[Way.compute("bf16"), Way.threads(8)])
    assert found.fastest()[0] == Combination("bf16")
    speeds = {trial.way: trial.speed_up for trial in found.trials}
    assert speeds == {
        "bf16": pytest.approx(1.6),
        "8 threads": pytest.approx(1 / 3),
        "verification": pytest.approx(1.6),
    }


@pytest.mark.parametrize(("without", "gain"), [(1.0, None), (1.2, 1.2), (2.0, 1.4)])
def test_what_threads_gain_is_measured_against_now(without: float, gain: float | None) -> None:
    class Calmer(FakeDrawer):
        """Other programs ran while the pictures were drawn as by default."""

        def runs(self, combination: Combination, *rest: Any) -> tuple[ForecastRun, ...]:
            (run,) = super().runs(combination, *rest)
            took = {"processor_seconds": 1.0 if combination.tolerance == 0 else 0.5}
            took |= {"processor_seconds_unaccelerated": 1.0, "seconds_unaccelerated": 1.4}
            return (
                run.model_copy(update={**took, "seconds": without if combination.threads is None else 1.0}),
            )

    found = search(Calmer(), ways=[Way.threads(8), FORECAST])
    chosen, _ = found.fastest()
    speeds = {trial.way: (trial.kept, trial.speed_up) for trial in found.trials}
    if gain is None:
        assert not speeds["8 threads"][0] and chosen.threads is None
    else:
        assert speeds["8 threads"] == (True, pytest.approx(gain)) and chosen.threads == 8
        assert speeds["verification"][1] == pytest.approx(2 * gain)


def test_what_other_prompts_do_not_hold_is_taken_back() -> None:
    drawer = FakeDrawer(others=2.5)
    found = search(drawer, ways=[Way.compute("bf16"), Way.quantized("unet", "int8")])
    combination, runs = found.fastest()
    assert combination == Combination("bf16") and runs[0].psnr >= 45
    verified = [(trial.combination, trial.kept) for trial in found.trials if trial.way == "verification"]
    assert verified == [("bf16, unet=int8", False), ("bf16", True)]
    assert drawer.asked[-2:] == [(name, "other") for name, _ in verified]


def test_a_tolerance_goes_down_before_forecasts_are_given_up() -> None:
    found = search(FakeDrawer(others=6.0), ways=[FORECAST])
    combination, _ = found.fastest()
    assert combination == Combination(tolerance=0.2)
    tried = [trial.combination for trial in found.trials if trial.way == "verification"]
    assert tried == ["forecast 0.4", "forecast 0.2"]


@dataclass
class OnOthers(FakeDrawer):
    """`times`: how many times as fast a combination is on prompts that nothing was chosen by."""

    times: Mapping[str, float] = field(default_factory=dict)

    def runs(
        self, combination: Combination, prompts: Sequence[str], progress: Progress
    ) -> tuple[ForecastRun, ...]:
        (run,) = super().runs(combination, prompts, progress)
        times = self.times.get(str(combination)) if prompts[0] == "other" else None
        return (run if times is None else run.model_copy(update={"seconds": 1 / times}),)


def verifications(found: SpeedSearch) -> list[tuple[str, str]]:
    return [(trial.combination, trial.reason) for trial in found.trials if trial.way == "verification"]


def test_what_is_slower_on_other_prompts_is_taken_back() -> None:
    drawer = OnOthers(times={"bf16, unet=int8": 0.9, "bf16": 1.0})
    found = search(drawer, 40.0, ways=[Way.compute("bf16"), Way.quantized("unet", "int8")])
    assert found.fastest()[0] == Combination("bf16")
    assert verifications(found) == [("bf16, unet=int8", "slower"), ("bf16", "")]
    assert found.best == Combination("bf16")


def test_forecasts_that_are_slower_on_other_prompts_are_given_up_at_once() -> None:
    found = search(OnOthers(times={"forecast 0.4": 0.89}), ways=[FORECAST])
    with pytest.raises(NothingFaster, match="nothing that was tried draws faster") as caught:
        found.fastest()
    assert verifications(found) == [("forecast 0.4", "slower")] and found.best is None
    assert not found.trials[-1].kept and caught.value.hint == ""


@pytest.mark.parametrize(("before", "kept"), [(0.9, False), (1.0, True)])
def test_forecasts_that_cost_more_than_the_calls_they_spare_are_not_faster(before: float, kept: bool) -> None:
    class Slow(FakeDrawer):
        def figures(self, combination: Combination) -> tuple[float, float]:
            return before, super().figures(combination)[1]

    found = search(Slow(), ways=[FORECAST])
    if kept:
        assert found.fastest()[0] == Combination(tolerance=0.4)
    else:
        with pytest.raises(NothingFaster):
            found.fastest()
    assert found.trials[0].kept is kept


def test_forecasts_that_leave_hardly_a_call_out_are_not_faster_whatever_the_clock_says() -> None:
    class Noisy(FakeDrawer):
        def runs(self, *arguments: Any) -> tuple[ForecastRun, ...]:
            return tuple(
                run.model_copy(update={"calls": 200, "calls_made": 190}) for run in super().runs(*arguments)
            )

    with pytest.raises(LatentcError, match="nothing that was tried draws faster"):
        search(Noisy(), ways=[FORECAST]).fastest()


def test_a_way_that_changes_nothing_is_said_to() -> None:
    found = search(FakeDrawer(nothing=frozenset({"pooled-keys"})))
    combination, _ = found.fastest()
    assert combination.approximations == ()
    (trial,) = [trial for trial in found.trials if trial.way == "pooled-keys"]
    assert trial.reason == "it changes nothing" and not trial.measured


def test_a_gate_that_nothing_holds_tells_the_nearest() -> None:
    with pytest.raises(LatentcError, match=r"70 dB cannot be held.*nearest is forecast 0.1.*at 60.0 dB"):
        search(FakeDrawer(levels={0.1: 60.0}), 70.0).fastest()
    with pytest.raises(LatentcError, match=r"nothing that was tried draws faster .*\(8 threads\)"):
        search(FakeDrawer(), ways=[Way.threads(8)]).fastest()


def test_what_was_best_when_it_was_stopped() -> None:
    for stop_after, best in ((0, None), (1, "bf16"), (8, "bf16, pooled-keys, forecast 0.2")):
        found = search(FakeDrawer(stop_after=stop_after))
        with pytest.raises(KeyboardInterrupt):
            found.fastest()
        assert (None if found.best is None else str(found.best)) == best
