"""What is recorded of a component's calls, and what the graphs that are tapped make of a time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError
from artifacts.progress import silent
from compiler.quantize import calibrate, replay
from compiler.quantize.calibrate import spread
from runtimes.sessions.session_contract import Device


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still: what takes time moves it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(calibrate, "perf_counter", lambda: clock.now)
    for module in (calibrate, replay):
        monkeypatch.setattr(module, "tell", lambda event: None)
    return clock


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_ranges_of_what_is_not_finite_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    taps = np.ones((2, 6), np.float32)
    file = tmp_path / "taps.npy"
    job: Any = SimpleNamespace(
        result=file, component="unet", graph=SimpleNamespace(precision="fp16", folder="unet")
    )

    def ask(*args: object) -> list[int]:
        np.save(file, taps)
        return [0, 7]

    monkeypatch.setattr(replay, "ask", ask)
    replayed = replay.taps(job, "measuring", silent)
    assert np.array_equal(replayed.taps, taps) and replayed.calls == (0, 7)
    taps[1, 4] = bad
    with pytest.raises(
        LatentcError, match="of 'unet' cannot be measured: some are not finite in fp16"
    ) as caught:
        replay.taps(job, "measuring", silent)
    assert "--quantize unet=int8" in caught.value.hint


class Session:
    """Its tap is the number of the call; a call takes some seconds, the first ten times as many."""

    inputs = {"x": None}  # noqa: RUF012
    device = "gpu"

    def __init__(self, clock: SimpleNamespace, seconds: float) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert set(inputs) == {"x"}
        self.clock.now += self.seconds * (1 if self.calls else 10)
        self.calls += 1
        return {"taps": inputs["x"]}


@pytest.mark.parametrize(
    ("seconds", "among", "chosen"),
    [
        (0.1, None, tuple(range(80))),
        (5.0, None, (0, 11, 22, 33, 45, 56, 67, 79)),
        (100.0, None, (0, 26, 52, 79)),
        (100.0, (0, 26, 79), (0, 26, 79)),
    ],
)
def test_as_many_calls_are_tapped_as_a_time_allows_spread_over_all(
    clock: SimpleNamespace, seconds: float, among: tuple[int, ...] | None, chosen: tuple[int, ...]
) -> None:
    calls = [{"x": np.full(3, number, np.float32), "unread": np.zeros(1)} for number in range(80)]
    session: Any = Session(clock, seconds)
    job: Any = SimpleNamespace(target="onnxruntime", taps="taps", seconds=40.0, among=among)
    replayed = replay.run(session, calls, job)
    assert replayed.calls == chosen and session.calls == len(chosen)
    assert replayed.taps[:, 0].tolist() == list(chosen)


def test_other_programs_do_not_count_where_processors_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "processors", lambda: 4)
    monkeypatch.setattr(calibrate, "process_time", lambda: 10.0)
    devices = (Device("beads", "", on_host=True), Device("gpu.1", ""))
    factory = SimpleNamespace(devices=lambda: devices)
    monkeypatch.setattr("runtimes.sessions.session_table.get", {"abacus": factory}.get)
    assert calibrate.clock("abacus", "beads")() == 2.5
    assert calibrate.clock("abacus", "gpu.1") is calibrate.perf_counter
    assert calibrate.clock("abacus", "cpu") is calibrate.perf_counter


def test_calls_are_spread_evenly() -> None:
    assert spread(3, 9) == (0, 4, 8) and spread(1, 9) == (0,) and spread(20, 4) == (0, 1, 2, 3)


class Pipeline:
    """Calls the component at each step, or with the latents that it made; a step takes some seconds."""

    def __init__(self, clock: SimpleNamespace, seconds: float, recorder: calibrate.Recorder) -> None:
        self.clock, self.seconds, self.recorder = clock, seconds, recorder
        self.decodes = False
        self.drawn: list[int] = []

    def __call__(self, prompt: str, num_inference_steps: int, output_type: str, generator: Any) -> None:
        self.drawn.append(num_inference_steps)
        self.clock.now += self.seconds * num_inference_steps
        calls = num_inference_steps if not self.decodes else int(output_type != "latent")
        for number in range(calls):
            self.recorder.run("unet", {"x": np.full(1, len(self.drawn) + number / 100, np.float32)})


@pytest.mark.parametrize(
    ("seconds", "prompts", "steps"), [(0.1, 4, 20), (0.9, 4, 11), (2.0, 4, 5), (2.6, 3, 4), (30.0, 1, 4)]
)
def test_prompts_and_steps_are_drawn_as_a_time_allows(
    clock: SimpleNamespace, seconds: float, prompts: int, steps: int
) -> None:
    recorder = calibrate.Recorder(Session(clock, 0.0), SimpleNamespace())  # type: ignore[arg-type]
    pipeline = Pipeline(clock, seconds, recorder)
    settings = SimpleNamespace(steps=20, prompts=("a", "b", "c", "d"))
    job: Any = SimpleNamespace(target="onnxruntime", evaluation=settings, seconds=40.0)
    assert calibrate.draw(pipeline, job, recorder, {"output_type": "latent"}) == (prompts, steps)
    assert len(recorder.inputs) == prompts * steps
    # A picture tells what a step takes; where no more can be afforded it is the one that is measured.
    assert pipeline.drawn == [4] + [steps] * (prompts if steps > 4 else prompts - 1)


def test_a_component_that_latents_do_not_need_costs_one_short_picture_more(clock: SimpleNamespace) -> None:
    recorder = calibrate.Recorder(Session(clock, 0.0), SimpleNamespace())  # type: ignore[arg-type]
    pipeline = Pipeline(clock, 7.5, recorder)
    pipeline.decodes = True
    settings = SimpleNamespace(steps=20, prompts=("a", "b", "c", "d"))
    job: Any = SimpleNamespace(target="onnxruntime", evaluation=settings, seconds=40.0)
    assert calibrate.drawn(pipeline, job, recorder, {}) == (1, 4)
    assert pipeline.drawn == [4, 4] and len(recorder.inputs) == 1
