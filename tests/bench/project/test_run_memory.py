"""What the command that measures drawing under hard limits holds its rows to, and prints."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import pytest
from PIL import Image

from bench.project import run_memory
from bench.project.full_size.published import PUBLISHED
from bench.project.memlimit import MIB, Usage
from bench.project.memory_rows import Row, table
from bench.project.run_memory import CASES, command, likeness, seconds


def usage(anonymous: int, status: int = 0) -> Usage:
    return Usage(status, status == 137, 9.0, 8.0, 2000 * MIB, 1900 * MIB, anonymous)


def test_a_row_holds_where_the_picture_is_equal_and_the_plan_is_near() -> None:
    drawn = usage(1000)
    assert Row("a", "latentc", 1, drawn, planned=900, likeness=inf).holds
    assert Row("a", "latentc", 1, drawn, planned=1200, likeness=inf).holds
    assert not Row("a", "latentc", 1, drawn, planned=899, likeness=inf).holds, "below by more than 10 %"
    assert not Row("a", "latentc", 1, drawn, planned=1201, likeness=inf).holds
    assert not Row("a", "latentc", 1, drawn, planned=1000, likeness=60.0).holds
    assert not Row("a", "latentc", 1, drawn, planned=1000).holds, "no picture to compare"
    assert not Row("a", "latentc", 1, usage(1000, 137), planned=1000).holds
    assert Row("a", "optimum-intel", None, drawn).holds


def test_the_table_tells_the_plan_beside_what_was_measured_and_the_price() -> None:
    rows = [
        Row("a", "latentc", None, usage(1000 * MIB), "all graphs stay open", 1100 * MIB, seconds=10.0),
        Row("a", "latentc", 1500, usage(500 * MIB), "in parts", 600 * MIB, inf, 15.0),
        Row("a", "latentc", 1400, usage(500 * MIB), "in parts", 600 * MIB, 43.21, 15.0),
        Row("b", "latentc", 1500, usage(500 * MIB, 137), "in parts", 600 * MIB),
    ]
    _, _, free, limited, near, killed = table(rows).splitlines()
    assert free == (
        "| a | latentc | none | drawn | all graphs stay open | 1,000 MiB | 1,100 MiB | 1.10 | 1,900 MiB | 2,000 MiB "
        "| 10 s |  |"
    )
    assert "| 1,500 MiB | equal | in parts | 500 MiB | 600 MiB | 1.20 |" in limited
    assert limited.endswith("| 15 s | 1.50 times |")
    assert "| 1,400 MiB | 43.2 dB | in parts |" in near
    assert "killed" in killed and killed.endswith("| 9 s |  |")


def test_seconds_are_found_behind_what_was_said_before() -> None:
    printed = json.dumps(
        [{"file": "a.png", "timings": {"total": 3.5, "opening": 1.0, "steps": [1, 2]}}], indent=2
    )
    assert seconds(printed) == seconds(f"Note: [x]\n{printed}\n") == 4.5
    assert seconds("Error: no") is None


def test_pictures_are_compared_by_their_pixels(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for file, color in zip(files, ("red", "red", "#fe0000"), strict=True):
        Image.new("RGB", (4, 4), color).save(file, compress_level=len(color))
    assert likeness(*files[:2]) == inf
    assert likeness(files[0], files[2]) < inf


def test_cases_draw_what_they_say(tmp_path: Path) -> None:
    case = CASES["sdxl-int8"]
    words = command(case, tmp_path / "out", tmp_path / "a.png", 10**9)
    assert case.picture == (1024, 1024) and words[-2:] == ["--memory", "1000000000"] and "1024x1024" in words


def test_the_case_of_a_denoiser_changes_what_is_beside_it() -> None:
    case = CASES["flux-int4"]
    changed = {part.name: part.config for part in case.architecture.parts}
    published = {part.name: part.config for part in PUBLISHED["flux"].parts}
    assert changed.pop("text_encoder_2") == {**published.pop("text_encoder_2"), "num_layers": 1}
    assert changed == published


def test_an_unknown_case_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["run_memory", "sd99"])
    with pytest.raises(SystemExit) as ended:
        run_memory.main()
    assert ended.value.code == 2 and "there is no sd99" in capsys.readouterr().err
