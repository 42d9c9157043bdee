"""`latentc tune`: what is asked for, what is printed, and what is kept where it is stopped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from artifacts.errors import LatentcError
from artifacts.evidence_records import SpeedChoice, SpeedTrial
from artifacts.verification import Artifact
from compiler import speed_tuning as work
from tests.compiler.test_speed_tuning import FakeDrawn, falling, tuned_forecast
from tests.latentc.artifacts_made import made


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The requests that `tune` gets; each is answered by what holds on made-up pictures."""
    manifest = made(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    requests: list[work.TuneRequest] = []

    def tune(request: work.TuneRequest, progress: Any) -> Artifact:
        requests.append(request)
        forecast = tuned_forecast(FakeDrawn(falling))
        return Artifact(request.artifact, manifest.model_copy(update={"forecast": forecast}))

    monkeypatch.setattr(work, "tune", tune)
    return requests


def test_what_is_found_is_printed(latentc, asked, tmp_path):
    (tmp_path / "prompts.txt").write_text("a\nb\n", encoding="utf-8")
    ended = latentc(
        "tune", "out", "--min-psnr", 40, "--prompts", "prompts.txt", "--steps", "20,30,20", "--scheduler", "X"
    )
    assert ended.code == 0, ended.err
    assert (asked[0].min_psnr, asked[0].prompts, asked[0].steps) == (40.0, ("a", "b"), (20, 30))
    assert asked[0].schedulers == ("X",)
    assert "tuned to 45 dB, worst 39; verified on other prompts." in ended.out
    assert "20 steps: 12.0 of 20 calls, PSNR" in ended.out and "1.50 times as fast (1 prompts" in ended.out
    told = json.loads(latentc("tune", "out", "--json").out)
    assert told["tolerance"] > 0 and told["verification"][0]["calls_made"] == 12


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--min-psnr", "0"], "0.0 is not in the range x>0"),
        (["--steps", "20,x"], "'20,x' is no list of numbers"),
        (["--prompts", "none.txt"], "'none.txt' does not exist"),
        (["--compute", "int3"], "'int3' is not one of"),
    ],
)
def test_what_is_refused(latentc, asked, args, message):
    ended = latentc("tune", "out", *args)
    assert ended.code == 2 and message in ended.err


def test_an_artifact_that_cannot_be_drawn_with(latentc, tmp_path):
    ended = latentc("tune", tmp_path / "none")
    assert ended.code == 1 and "does not exist" in ended.err and "Traceback" not in ended.err
    made(tmp_path / "out")
    ended = latentc("tune", tmp_path / "out", "--device", "gpu.7")
    assert ended.code == 2 and "has no device 'gpu.7'" in ended.err and "Traceback" not in ended.err


def test_a_gate_that_cannot_be_held_and_a_stop(latentc, asked, monkeypatch):
    def fails(request: Any, progress: Any) -> Any:
        raise LatentcError("50 dB cannot be held: at the smallest tolerance pictures are at 44 dB.")

    monkeypatch.setattr(work, "tune", fails)
    ended = latentc("tune", "out", "--min-psnr", 50)
    assert ended.code == 1 and "50 dB cannot be held" in ended.err

    def stopped(request: Any, progress: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "tune", stopped)
    assert latentc("tune", "out").code == 130


def test_what_was_measured_slower_is_not_said_to_be_fast(tmp_path):
    from latentc import evidence

    forecast = tuned_forecast(FakeDrawn(falling))
    slow = {"seconds": 3.0, "processor_seconds": 1.0, "processor_seconds_unaccelerated": 0.9}
    runs = tuple(run.model_copy(update=slow) for run in forecast.verification)
    forecast = forecast.model_copy(update={"verification": runs})
    trial = SpeedTrial(way="verification", combination="forecast 0.1", speed_up=0.9, kept=True)
    choice = {"min_psnr": 45.0, "worst_psnr_below": 6.0, "compute": "auto", "cores": 2, "device": "cpu"}
    speed = SpeedChoice(**choice, verified=True, trials=(trial,))
    manifest = made(tmp_path / "out").model_copy(update={"forecast": forecast, "speed": speed})
    lines = evidence.forecast_lines(manifest)
    assert len(lines) == 3 and all("slower, at 0.90 of the speed (1 prompts" in line for line in lines[1:])
    assert evidence.speed_lines(manifest)[0].endswith("slower, at 0.90 of the speed on other prompts.")
    threaded = manifest.model_copy(update={"speed": speed.model_copy(update={"threads": 2})})
    assert "slower, at 0.50 of the speed" in evidence.forecast_lines(threaded)[1]  # by the clock
