"""The bench of forecasts: what a row falls short of, and that a run goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from artifacts.errors import LatentcError
from bench.project import forecast
from bench.project.forecast import Row

ROW = Row("openvino", "DDIM", 20, 0.1, 11.5, (46.0, 50.0), (40.0, 41.0), 0.95, 0.95, 1.6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"calls": 13.0}, "13.0 calls, of at most 12"),
        ({"ratios": (35.0, 60.0)}, "47.5 dB, worst 35.0"),
        ({"plain": (45.0, 46.0)}, "48.0 dB, and 45.5 in plainly as many steps"),
        ({"accuracy": 0.9}, "prompt accuracy 90.0%"),
        ({"calls": 19.0, "scheduler": "Euler a"}, ""),
    ],
)
def test_what_a_row_falls_short_of(changes: dict[str, Any], message: str) -> None:
    short = list(dataclasses.replace(ROW, **changes).short())
    assert message in "".join(short) and len(short) == bool(message)


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, asked = tmp_path / "work", []

    def compile(request: Any) -> None:
        asked.append("compile")
        assert request.precision == "fp16" and not request.rewrites  # as by default

    def tune(request: Any) -> Any:
        asked.append(f"tune to {request.schedulers[0]}")
        assert request.compute == "auto" and request.steps == forecast.STEPS
        if "Euler" in request.schedulers[0]:
            raise LatentcError("45 dB cannot be held")
        return SimpleNamespace(manifest=SimpleNamespace(forecast=SimpleNamespace(tolerance=0.1)))

    class Drawer:
        def __init__(self, pipeline: Any, captions: Any) -> None:
            assert len(captions) == 3

        def row(self, target: str, name: str, steps: int, tolerance: float) -> Row:
            asked.append(f"{name} at {tolerance}")
            if name == "Euler":
                raise KeyboardInterrupt
            return dataclasses.replace(ROW, scheduler=name, steps=steps)

    monkeypatch.setattr("compiler.build.compile", compile)
    monkeypatch.setattr(forecast, "open_artifact", lambda path: path)
    monkeypatch.setattr(
        forecast, "copy_artifact", lambda artifact, out, force: asked.append(f"copy to {out.name}")
    )
    monkeypatch.setattr("compiler.speed_tuning.tune", tune)
    monkeypatch.setattr("runtimes.pipeline.load", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(forecast, "Drawer", Drawer)
    command = ["--target", "openvino", "--steps", "20", "--prompts", "3", "--work", str(work)]
    for name in ("DDIM", "Euler"):
        command += ["--scheduler", name]
    with pytest.raises(KeyboardInterrupt):
        forecast.main(command)
    assert asked == [
        "compile",
        "copy to openvino-auto-DDIMScheduler",
        "tune to DDIMScheduler",
        "DDIM at 0.1",
        "copy to openvino-auto-EulerDiscreteScheduler",
        "tune to EulerDiscreteScheduler",
        "Euler at 0.0",
    ]
    (notes,) = work.glob("*.jsonl")
    assert [json.loads(line)["scheduler"] for line in notes.read_text().splitlines()] == ["DDIM"]
    asked.clear()
    tuned = SimpleNamespace(forecast=SimpleNamespace(tolerance=0.1))
    monkeypatch.setattr(forecast, "is_artifact", lambda path: True)
    monkeypatch.setattr(forecast, "read_manifest", lambda path: tuned)
    monkeypatch.setattr(Drawer, "row", lambda self, *args: asked.append(args[1]) or ROW)
    assert forecast.main(command) == 0
    assert asked == ["Euler"]
