"""The full-size TensorRT bench: what is compiled, what is told, and that a compile that is killed fails the claim."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.project.full_size import compile_costs, tensorrt_engines
from bench.project.memlimit import MIB, Usage
from tests.latentc.artifacts_made import made

DONE = Usage(0, False, 30, 55.5, 3000 * MIB, 2000 * MIB)
KILLED = Usage(137, True, 5.0, 4.0, 6144 * MIB, None)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[list[str], int | None]]:
    """What was run, and under which limit. Each writes an artifact with an engine of 3 MiB, or is killed."""
    seen: list[tuple[list[str], int | None]] = []

    def fake(command: list[str], limit: int | None = None, **_: object) -> Usage:
        seen.append((command, limit))
        out = Path(command[command.index("compile") + 2])
        manifest = made(out)
        engine = manifest.files[0].model_copy(update={"path": "unet/model.engine", "size": 3 * MIB})
        made(out, files=(*manifest.files, engine))
        return KILLED if "int4" in command else DONE

    monkeypatch.setattr(compile_costs.memlimit, "run", fake)
    (tmp_path / "sd15").mkdir()
    (tmp_path / "sd15/model_index.json").write_text("{}")
    return seen


def ended(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tensorrt", *args])
    with pytest.raises(SystemExit) as stop:
        tensorrt_engines.main()
    return int(str(stop.value.code))


def test_fits(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    commands: list[tuple[list[str], int | None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(monkeypatch, "fp16", "--work", str(tmp_path), "--gpu", "sm120") == 0
    ((command, limit),) = commands
    assert limit == 6144 * MIB
    assert command[-9:] == "--gpu sm120 --precision fp16 --size 512 --force --check none".split()[-9:]
    out = capsys.readouterr().out
    assert "holds: SD 1.5 to TensorRT fp16 for sm120" in out
    assert "fp16: engines of 3 MiB" in out
    assert [path.name for path in tmp_path.iterdir()] == ["sd15"]


def test_a_killed_compile_fails_the_claim(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    commands: list[tuple[list[str], int | None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(monkeypatch, "--work", str(tmp_path)) == 1
    assert [("--quantize" in command) for command, _ in commands] == [False, True]
    out = capsys.readouterr().out
    assert "FAILS: SD 1.5 to TensorRT int4 for sm89" in out
    assert "int4: engines" not in out
