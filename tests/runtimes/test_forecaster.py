"""Which calls a forecaster leaves out, on trajectories that are made up, and what pipelines do with one."""

from __future__ import annotations

import copy
import gc
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import Forecast, ForecastRun
from runtimes.acceleration import Tuned, tolerance_of, tuned_to
from runtimes.extrapolation import Curve
from runtimes.forecaster import Arrays, Count, Forecaster, forecasting
from runtimes.meter import Cancelled
from runtimes.schedulers import make_scheduler, schedulers_of, watching
from tests.runtimes.conftest import Compiled

SMALL: dict[str, Any] = {"size": "32x32", "seed": 3, "guidance": 3.0}
Denoiser = Callable[[float], np.ndarray]


class Loop:
    """A denoising loop that calls what it is given to, in order, for each timestep.

    Attributes:
        made: of each timestep, the names of the calls that were made.
    """

    def __init__(self, forecaster: Forecaster, steps: int = 20) -> None:
        self.forecaster = forecaster
        self.scheduler = SimpleNamespace(timesteps=np.linspace(1000, 50, steps))
        self.made: list[list[str]] = []
        self.noise = np.random.default_rng(0)

    def call(self, name: str, time: float, value: np.ndarray, **more: np.ndarray) -> np.ndarray:
        sample = self.noise.normal(size=(2, 4, 4)).astype(np.float32)
        inputs = {"sample": sample, "timestep": np.float32([time, time]), **more}
        return self.untimed(name, value, inputs)

    def untimed(self, name: str, value: np.ndarray, inputs: dict[str, np.ndarray]) -> np.ndarray:
        def run() -> Arrays:
            self.made[-1].append(name)
            return {"out": value.copy()}

        return self.forecaster.call(name, inputs, run)["out"]

    def run(self, step: Callable[[Loop, int, float], None], last: int | None = None) -> list[list[str]]:
        for number, time in enumerate(self.scheduler.timesteps[:last]):
            self.made.append([])
            step(self, number, float(time))
            self.forecaster.end_step(self.scheduler, torch.tensor(time))
        return self.made


def smooth(time: float) -> np.ndarray:
    """A trajectory that bends."""
    phase = time / 400 + np.arange(32, dtype=np.float32).reshape(2, 4, 4) / 8
    return np.sin(phase).astype(np.float32)


def pattern(made: Sequence[Sequence[str]]) -> str:
    return "".join("X" if names else "." for names in made)


def test_a_line_and_a_parabola_are_followed_to_the_end() -> None:
    times = (900.0, 850.0, 750.0)
    bent = [{"out": np.float32([[time**2 / 1e4, 1.0]])} for time in times]
    curve = Curve.through(times, bent)
    straight = Curve.through(times, [{"out": np.float32([[2 * t, 1.0]])} for t in times])
    forecast = straight.at(650.0)["out"]
    assert np.allclose(forecast, [[1300.0, 1.0]]) and forecast.dtype == np.float32
    assert straight.apart(650.0) == 0.0
    # On a parabola the spread is what the line is off by.
    actual = {"out": np.float32([[650.0**2 / 1e4, 1.0]])}
    off = curve.off(650.0, actual)
    assert off > 0.03 and curve.apart(650.0) == pytest.approx(off, rel=1e-3)


def test_rows_count_by_themselves_and_whole_numbers_stay() -> None:
    quiet, loud = np.full((1, 8), 1e-3), np.full((1, 8), 100.0)
    values = [
        {"out": np.concatenate([quiet * factor, loud]), "count": np.int64([factor])} for factor in (1, 2, 4)
    ]
    curve = Curve.through((3.0, 2.0, 1.0), values)
    assert curve.norms == {"out": pytest.approx([4e-3 * math.sqrt(8), 100 * math.sqrt(8)])}
    assert curve.apart(0.0) == pytest.approx(0.25)  # The quiet row goes on to 6 by the line, and to 7.
    forecast = curve.at(0.0)
    assert np.allclose(forecast["out"], np.concatenate([6 * quiet, loud]))
    assert forecast["count"] == [4] and forecast["count"].dtype == np.int64
    forecast["count"][0] = 7
    assert values[-1]["count"] == [4]


def test_what_is_no_number_is_far_off() -> None:
    times = (3.0, 2.0, 1.0)
    whole, nothing, broken = ({"out": np.full((2, 3), value)} for value in (1.0, 0.0, np.nan))
    assert Curve.through(times, [whole, whole, nothing]).apart(0.0) == math.inf  # Of nothing, all is far off.
    assert Curve.through(times, [nothing] * 3).apart(0.0) == 0.0
    assert Curve.through(times, [whole, whole, broken]).apart(0.0) == math.inf
    assert Curve.through(times, [whole] * 3).off(0.0, broken) == math.inf
    assert Curve.through(
        times, [{"none": np.zeros((0, 4)), "ids": np.zeros((2, 4), np.int64)}] * 3
    ).norms == {"none": []}


def test_a_smooth_denoiser_is_called_for_some_timesteps_the_first_and_the_last_among_them() -> None:
    outputs: dict[float, np.ndarray] = {}

    def step(loop: Loop, number: int, time: float) -> None:
        outputs[time] = loop.call("denoiser", time, smooth(time))

    counts = {}
    for tolerance in (1e-6, 0.02, 0.2):
        loop = Loop(Forecaster(tolerance))
        made = pattern(loop.run(step))
        assert made.startswith("XXX") and made.endswith("X"), made
        counts[tolerance] = made.count("X")
        assert loop.forecaster.count == Count(counts[tolerance], 20)
        worst = max(float(np.abs(outputs[t] - smooth(t)).max()) for t in outputs)
        assert worst <= 4 * tolerance
    assert counts[1e-6] == 20 and 6 < counts[0.2] < counts[0.02] < 16


def test_more_steps_need_fewer_of_them_and_few_steps_all() -> None:
    def made(steps: int) -> int:
        loop = Loop(Forecaster(0.05), steps)
        return pattern(loop.run(lambda loop, _, time: [loop.call("denoiser", time, smooth(time))][:0])).count(
            "X"
        )

    assert made(4) == 4 and made(6) == 6
    assert made(8) >= 6
    assert made(50) / 50 < made(20) / 20 < 0.8


def test_noise_is_seen_in_what_is_returned() -> None:
    noise = np.random.default_rng(1)

    def step(loop: Loop, number: int, time: float) -> None:
        loop.call("denoiser", time, smooth(time) + 0.3 * noise.normal(size=(2, 4, 4)).astype(np.float32))

    assert pattern(Loop(Forecaster(0.05)).run(step)) == "X" * 20


def test_a_jump_is_met_by_calls() -> None:
    """What was forecast well so far changes: the calls that follow are made."""

    def step(loop: Loop, number: int, time: float) -> None:
        loop.call("denoiser", time, smooth(time) if time > 500 else 9 * smooth(3 * time))

    made = pattern(Loop(Forecaster(0.02), 50).run(step))
    after = made.index("X", 26)
    assert made[:26].count("X") < 16 and made[after : after + 3] == "XXX"


def test_all_calls_of_a_timestep_are_decided_once() -> None:
    """A ControlNet whose outputs the denoiser reads, and guidance as two calls."""
    state: dict[str, np.ndarray] = {}

    def step(loop: Loop, number: int, time: float) -> None:
        hint = loop.call("control", time, 5 * smooth(7 * time))
        for turn in range(2):
            state[f"{turn} {time}"] = loop.call("denoiser", time, smooth(time + 300 * turn), hint=hint)

    made = Loop(Forecaster(0.1)).run(step)
    assert {tuple(names) for names in made} == {(), ("control", "denoiser", "denoiser")}
    assert 6 < pattern(made).count("X") < 14
    for key, value in state.items():
        turn, time = key.split()
        assert np.abs(value - smooth(float(time) + 300 * int(turn))).max() < 0.4


def test_what_only_a_forecast_denoiser_reads_need_not_know_the_time() -> None:
    def step(read: bool) -> Callable[[Loop, int, float], None]:
        def made(loop: Loop, number: int, time: float) -> None:
            picture = loop.noise.normal(size=(2, 4, 4)).astype(np.float32)
            hint = loop.untimed("adapter", smooth(number), {"picture": picture})
            loop.call("denoiser", time, smooth(time), hint=hint if read else hint + 1)

        return made

    assert () in {tuple(names) for names in Loop(Forecaster(0.1)).run(step(read=True))}
    # Something else may have read it: it is always called.
    assert {tuple(names) for names in Loop(Forecaster(0.1)).run(step(read=False))} == {
        ("adapter",),
        ("adapter", "denoiser"),
    }


def test_what_is_called_beside_the_timestep_is_always_made() -> None:
    def step(loop: Loop, number: int, time: float) -> None:
        if number == 0:
            loop.untimed("text", np.ones((2, 3), np.float32), {"tokens": np.int64([[1, 2, 3]])})
        latents = loop.call("denoiser", time, smooth(time))
        if number % 5 == 4:
            loop.untimed("preview", smooth(0), {"latents": latents})

    made = Loop(Forecaster(0.1)).run(step)
    assert sum("preview" in names for names in made) == 4 and made[0] == ["text", "denoiser"]
    assert ["preview"] in made or [] in made
    assert sum("denoiser" in names for names in made) < 15


def test_a_second_transformer_that_takes_over_starts_anew() -> None:
    def step(loop: Loop, number: int, time: float) -> None:
        loop.call("first" if time > 500 else "second", time, smooth(time) if time > 500 else 5 * smooth(time))

    loop = Loop(Forecaster(0.1), 30)
    made = loop.run(step)
    takes_over = next(number for number, names in enumerate(made) if "second" in names)
    assert loop.scheduler.timesteps[takes_over] <= 500 < loop.scheduler.timesteps[takes_over - 1]
    assert made[takes_over : takes_over + 3] == [["second"]] * 3
    assert [] in made[:takes_over] and [] in made[takes_over:]


def test_guidance_that_ends_half_way_and_another_prompt() -> None:
    prompts = [np.full((2, 8), value, np.float32) for value in (1.0, 2.0)]

    def ends(loop: Loop, number: int, time: float) -> None:
        for turn in range(2 if time > 500 else 1):
            loop.call("denoiser", time, smooth(time + turn))

    assert [] in Loop(Forecaster(0.1)).run(ends)[12:]

    def begins(loop: Loop, number: int, time: float) -> None:
        for turn in range(1 if time > 500 else 2):
            loop.call("denoiser", time, smooth(time + turn))

    made = Loop(Forecaster(0.1)).run(begins)
    first = next(number for number, names in enumerate(made) if loop_time(number) <= 500)
    assert "denoiser" in made[first] and made[-1] == ["denoiser"] * 2

    def other(loop: Loop, number: int, time: float) -> None:
        prompt = prompts[int(time <= 500)].copy()
        loop.call("denoiser", time, smooth(time), prompt=prompt)

    made = Loop(Forecaster(0.5)).run(other)
    assert made[first : first + 3] == [["denoiser"]] * 3


def loop_time(number: int, steps: int = 20) -> float:
    return float(np.linspace(1000, 50, steps)[number])


def test_times_that_do_not_advance_and_times_of_no_schedule_are_called() -> None:
    loop = Loop(Forecaster(0.5))
    # As Heun's method: each time twice, once before and once after it is corrected.
    loop.scheduler = SimpleNamespace(timesteps=np.repeat(loop.scheduler.timesteps, 2)[1:])
    assert pattern(loop.run(lambda loop, _, t: [loop.call("denoiser", t, smooth(t))][:0])) == "X" * 39
    loop = Loop(Forecaster(0.5))
    own = loop.scheduler.timesteps
    loop.scheduler = SimpleNamespace(timesteps=own)
    for time in own:
        loop.made.append([])
        loop.call("denoiser", float(time), smooth(time))
        loop.forecaster.end_step(SimpleNamespace(), torch.tensor(time))
    assert pattern(loop.made) == "X" * 20


def test_the_last_timestep_of_a_schedule_that_is_cut_short_is_called() -> None:
    def step(loop: Loop, number: int, time: float) -> None:
        loop.call("denoiser", time, smooth(time))

    for last in range(8, 16):
        made = Loop(Forecaster(0.5, lambda last=last: [last])).run(step, last)  # type: ignore[misc]
        assert pattern(made).endswith("X") and "." in pattern(made)


def test_what_a_pipeline_does_to_outputs_in_place_is_not_remembered() -> None:
    def step(loop: Loop, number: int, time: float) -> None:
        out = loop.call("denoiser", time, smooth(time))
        assert np.abs(out - smooth(time)).max() < 0.4
        out *= 100

    assert "." in pattern(Loop(Forecaster(0.1)).run(step))


@pytest.mark.parametrize("asked", ["-1", -0.1, "fast", float("nan"), "inf", True, ""])
def test_what_is_no_tolerance(asked: Any) -> None:
    with pytest.raises(UsageError, match="off, auto or a tolerance of at least 0"):
        tolerance_of(asked, 0.0)


def test_tolerances() -> None:
    assert [tolerance_of(asked, 0.3) for asked in ("off", "auto", "0.1", 0, 2)] == [0.0, 0.3, 0.1, 0.0, 2.0]


def pixels(result: Any) -> np.ndarray:
    return np.stack([np.asarray(image) for image in result.images])


def test_a_pipeline_makes_fewer_calls_and_says_how_many(compiled: Compiled) -> None:
    pool = compiled.pool()
    pipe = compiled.pipeline(pool=pool)
    plain = pipe.generate("a", steps=20, **SMALL)
    assert plain.calls is None and "calls" not in plain.parameters
    pool.calls.clear()
    result = pipe.generate("a", steps=20, accelerate=0.2, **SMALL)
    made = sum(call[0] == "unet" for call in pool.calls)
    assert result.calls == Count(made, 20) and made < 15
    assert result.parameters["calls"] == f"{made} of 20" and result.parameters["accelerate"] == 0.2
    assert result.timings.components["unet.forward"].calls == made and len(result.timings.steps) == 20
    assert 0 < np.abs(pixels(result).astype(int) - pixels(plain)).max() < 40
    # Nothing of it is left, whatever came between.
    again = pipe.generate("a", steps=20, accelerate=0.2, **SMALL)
    assert np.array_equal(pixels(again), pixels(result)) and again.calls == result.calls
    assert np.array_equal(pixels(pipe.generate("a", steps=20, accelerate="off", **SMALL)), pixels(plain))
    assert np.array_equal(pixels(pipe.generate("a", steps=20, accelerate=0, **SMALL)), pixels(plain))
    few = pipe.generate("a", steps=4, accelerate=0.2, **SMALL)
    assert few.calls == Count(4, 4)


RUN = ForecastRun(
    prompts=1, steps=20, guidance=3.0, width=32, height=32, compute="fp32", device="cpu", calls=20, calls_made=12,
    psnr=45.0, worst_psnr=40.0, ssim=0.99, worst_ssim=0.98, seconds=1.0, seconds_unaccelerated=1.5,
)  # fmt: skip
TUNED = Forecast(
    tolerance=0.2, min_psnr=45.0, worst_psnr_below=6.0, tuned_on="0" * 64, verified_on="1" * 64, tuning=(RUN,),
    verification=(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "own", "by", "tolerance"),
    [
        (3.0, 7.5, 3.0, 0.2),
        (1.0, 7.5, 3.0, 0.2),
        (3.1, 7.5, 3.0, 0.0),
        (None, 7.5, 3.0, 0.0),
        (None, 7.5, None, 0.2),
        (8.0, 7.5, None, 0.0),
        (None, None, None, 0.2),
    ],
)
def test_auto_is_off_beyond_the_guidance_that_it_was_tuned_by(
    asked: float | None, own: float | None, by: float | None, tolerance: float
) -> None:
    tuned = TUNED.model_copy(update={"tuning": (RUN.model_copy(update={"guidance": by}),)})
    auto = tuned_to(tuned, asked, own)
    assert auto.tolerance == tolerance
    assert bool(auto.note) == (tolerance == 0)
    assert tuned_to(None, asked, own) == Tuned()


def test_a_pipeline_holds_auto_to_the_guidance_of_its_tuning(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    pipe.manifest = pipe.manifest.model_copy(update={"forecast": TUNED})

    def is_forecast(guidance: float | None, **asked: Any) -> bool:
        return pipe.generate("a", steps=20, **{**SMALL, "guidance": guidance}, **asked).calls is not None

    assert is_forecast(3.0) and not is_forecast(7.0)
    assert not is_forecast(None)  # the pipeline's own is 7.5
    assert "guidance is 7.5" in pipe.generate("a", steps=2, size=32).note
    assert pipe.generate("a", steps=2, **{**SMALL, "guidance": 3.0}).note == ""
    assert pipe.generate("a", steps=2, size=32, accelerate="off").note == ""
    assert is_forecast(7.0, accelerate=0.2)
    given: dict[str, Any] = {"num_inference_steps": 20, "width": 32, "height": 32}
    pipe("a", guidance_scale=2.0, **given)
    assert pipe._tolerance == 0.2
    pipe("a", guidance_scale=7.5, **given)
    assert pipe._tolerance == 0.0


def test_a_call_and_what_load_was_given(compiled: Compiled) -> None:
    pool = compiled.pool()
    pipe = compiled.pipeline(pool=pool)
    pipe._accelerate = 0.2
    given: dict[str, Any] = {"num_inference_steps": 20, "width": 32, "height": 32}
    pipe("a", generator=torch.Generator().manual_seed(3), **given)
    accelerated = sum(call[0] == "unet" for call in pool.calls)
    pool.calls.clear()
    pipe("a", generator=torch.Generator().manual_seed(3), accelerate="off", **given)
    assert accelerated < 15 and sum(call[0] == "unet" for call in pool.calls) == 20


def test_several_images_and_less_of_an_image(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    several = pipe.generate(["a", "b", "c"], steps=20, accelerate=0.2, images=2, **SMALL)
    assert several.calls is not None and several.calls.of == 40 and several.calls.made < 34
    start = several.images[0]
    other = compiled.pipeline(task="image-to-image")
    less = other.generate("a", image=start, strength=0.3, steps=20, accelerate=0.2, seed=1)
    assert less.calls is not None and less.calls.of == 6 and less.calls.made >= 4
    most = other.generate("a", image=start, strength=1.0, steps=20, accelerate=0.2, seed=1)
    assert most.calls is not None and most.calls.of == 20 and most.calls.made < 15
    # Stopped on its way, and then less of the image once more: as if nothing had come between.
    cancel = threading.Event()

    def stop(event: Any) -> None:
        if event.completed == 9:
            cancel.set()

    with pytest.raises(Cancelled):
        other.generate("b", image=start, strength=1.0, steps=20, accelerate=0.2, progress=stop, cancel=cancel)
    again = other.generate("a", image=start, strength=0.3, steps=20, accelerate=0.2, seed=1)
    assert np.array_equal(pixels(again), pixels(less)) and again.calls == less.calls


def test_a_run_that_is_stopped_leaves_nothing_behind(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    wanted = pipe.generate("a", steps=20, accelerate=0.2, **SMALL)
    cancel = threading.Event()

    def stop(event: Any) -> None:
        if event.completed == 7:
            cancel.set()

    with pytest.raises(Cancelled):
        pipe.generate("a", steps=20, accelerate=0.2, progress=stop, cancel=cancel, **SMALL)

    def fail(pipeline: Any, step: int, *rest: Any) -> dict[str, Any]:
        if step == 9:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        pipe.generate("b", steps=20, accelerate=0.2, callback_on_step_end=fail, **SMALL)
    assert pipe._forecaster is None
    assert type(pipe.diffusers.scheduler).__mro__[1] is not type(pipe.scheduler)
    again = pipe.generate("a", steps=20, accelerate=0.2, **SMALL)
    assert np.array_equal(pixels(again), pixels(wanted)) and again.calls == wanted.calls


def test_schedulers_are_watched_for_a_while(compiled: Compiled) -> None:
    pipe = compiled.reference
    assert schedulers_of([pipe]) == [pipe.scheduler]
    own, told = type(pipe.scheduler), []
    pipe.scheduler.set_timesteps(3)
    sample = torch.zeros(1, 4, 2, 2)
    with watching([pipe.scheduler], lambda scheduler, time, result: told.append(int(time))):
        assert isinstance(make_scheduler(pipe, "EulerDiscreteScheduler"), object)
        for time in pipe.scheduler.timesteps:
            pipe.scheduler.step(sample, timestep=time, sample=sample)
    assert type(pipe.scheduler) is own
    pipe.scheduler.step(sample, pipe.scheduler.timesteps[0], sample)
    assert told == pipe.scheduler.timesteps.tolist()


def test_several_watch_the_same_steps(compiled: Compiled) -> None:
    """As a bench, which keeps each step's sample, does of a run with forecasts."""
    scheduler = compiled.reference.scheduler
    scheduler.set_timesteps(3)
    sample, (first, second, third) = torch.zeros(1, 4, 2, 2), scheduler.timesteps
    own, attributes, outside, inside = type(scheduler), set(vars(scheduler)), [], []
    with watching([scheduler], lambda scheduler, time, result: outside.append(time)):
        scheduler.step(sample, first, sample)
        with watching([scheduler], lambda scheduler, time, result: inside.append(time)):
            copy.deepcopy(scheduler).step(sample, second, sample)
        scheduler.step(sample, third, sample)
    assert outside == [first, second, third] and inside == [second]
    assert type(scheduler) is own and set(vars(scheduler)) == attributes


def test_there_is_nothing_to_forecast_without_steps(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = compiled.pipeline()
    monkeypatch.setattr("runtimes.pipeline.schedulers_of", lambda pipes: [])
    with pytest.raises(UsageError, match="no scheduler, so there are no steps"):
        pipe.generate("a", steps=2, accelerate=0.1, **SMALL)
    assert pipe.generate("a", steps=2, accelerate="auto", **SMALL).calls is None


def test_a_call_that_does_not_fit_is_still_refused(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    with pytest.raises(LatentcError, match="not compiled for this call"):
        pipe("a", num_inference_steps=6, num_images_per_prompt=9, width=32, height=32, accelerate=0.5)


def test_a_run_that_is_over_is_freed_at_once() -> None:
    """A class for each run would keep the forecaster and its arrays until all objects are looked at."""
    pipe = SimpleNamespace(scheduler=DDIMScheduler())
    gc.disable()
    try:
        with forecasting([pipe], 0.1) as policy:
            assert type(pipe.scheduler) is not DDIMScheduler
            copied = copy.deepcopy(pipe.scheduler)
        over = weakref.ref(policy)
        del policy, copied
        assert over() is None and type(pipe.scheduler) is DDIMScheduler
    finally:
        gc.enable()
