"""The check of GPU machines: what it says where there is none, and what it holds engines to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError
from bench.project import gpu_check
from bench.project.gpu_check import ENGINES, REFERENCE, Engine, check

NAMES = [engine.name for engine in (REFERENCE, *ENGINES)]


def ended(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_check", *args])
    with pytest.raises(SystemExit) as stop:
        gpu_check.main()
    return int(str(stop.value.code))


def test_without_a_gpu_nothing_is_measured_and_nothing_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    assert ended(monkeypatch, "--work", str(tmp_path / "work")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpus"] == []
    assert list(found["models"]) == ["shapes", "sd15"]
    for rows in found["models"].values():
        assert list(rows) == NAMES
        assert all(not row["measured"] and not row["failed"] for row in rows.values())
        assert {row["reason"] for row in rows.values()} == {"PyTorch sees no NVIDIA GPU here"}
    assert list((tmp_path / "work").iterdir()) == []


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each engine draws, by name: latents, or an error. All of them can run."""
    drawn: dict[str, Any] = {name: np.ones((1, 4, 2, 2), np.float32) for name in NAMES}

    def start(engine: Engine, model: str, work: Path, device: str) -> Any:
        def draw(steps: int) -> Any:
            if isinstance(drawn[engine.name], Exception):
                raise drawn[engine.name]
            # The first step of a run is slow; it is not counted.
            return drawn[engine.name], (9.0, *[0.001 * i for i in range(1, steps)])

        return draw, lambda: None

    monkeypatch.setattr(gpu_check, "_artifact", start)
    monkeypatch.setattr(gpu_check, "_torch", start)
    monkeypatch.setattr(gpu_check, "lacks", lambda engine, device: "")
    return drawn


def test_error_and_milliseconds(engines: dict[str, Any], tmp_path: Path) -> None:
    engines["TensorRT fp16"] = np.full((1, 4, 2, 2), 1.01, np.float32)
    rows = check(("shapes",), tmp_path, "cuda", lambda line: None)["shapes"]
    assert [row["measured"] for row in rows.values()] == [True] * 4
    assert rows["PyTorch fp32"]["error"] is None
    assert rows["PyTorch fp16"]["error"] == 0
    assert rows["TensorRT fp16"]["error"] == pytest.approx(0.01, rel=1e-3)
    assert rows["TensorRT fp16"]["step_ms"] == pytest.approx((1.5, 1, 2))


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        (LatentcError("no kernel", "a hint"), "no kernel a hint"),
        (RuntimeError("CUDA error:\n  out of memory"), "CUDA error: out of memory"),
        (np.full((1, 4, 2, 2), 2, np.float32), "error 1.0e+00, at most 0.05 is allowed"),
        (np.full((1, 4, 2, 2), np.nan, np.float32), "its latents are not finite"),
    ],
)
def test_what_is_wrong_fails(
    drawn: Any,
    reason: str,
    engines: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines["TensorRT fp16"] = drawn
    assert ended(monkeypatch, "shapes", "--out", str(tmp_path / "found.json")) == 1
    row = json.loads((tmp_path / "found.json").read_text())["models"]["shapes"]["TensorRT fp16"]
    assert (row["measured"], row["failed"], row["reason"]) == (False, True, reason)


def test_without_its_reference_nothing_is_compared(engines: dict[str, Any], tmp_path: Path) -> None:
    engines[REFERENCE.name] = LatentcError("no")
    rows = check(("shapes",), tmp_path, "cuda", lambda line: None)["shapes"]
    assert {row["reason"] for name, row in rows.items() if name != REFERENCE.name} == {
        "PyTorch fp32 was not measured"
    }


@pytest.mark.slow
def test_onnxruntime_draws_what_pytorch_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the CPU, with the built-in model: all that a GPU is not needed for."""
    monkeypatch.setattr(gpu_check, "ENGINES", tuple(e for e in ENGINES if e.target == "onnxruntime"))
    monkeypatch.setattr(gpu_check, "STEPS", 3)
    monkeypatch.setattr(gpu_check, "ROUNDS", 1)
    rows = check(("shapes",), tmp_path, "cpu", lambda line: None)["shapes"]
    assert all(row["measured"] for row in rows.values()), rows
    assert rows["ONNX Runtime, weights in fp16"]["error"] < 1e-3
