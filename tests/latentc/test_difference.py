"""What two artifacts are said to differ in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from artifacts.creation_time import EPOCH, created_now
from artifacts.difference import field_differences, file_differences
from artifacts.errors import UsageError
from artifacts.manifest import FileRecord
from tests.latentc.artifacts_made import made


def test_equal_manifests_do_not_differ(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a"), made(tmp_path / "b")
    assert file_differences(first, second) == () == field_differences(first, second)


def test_files_and_the_reason(tmp_path: Path) -> None:
    first = made(tmp_path / "a")
    one, two, three = first.files
    graph = first.graphs[0].model_copy(update={"precision": "fp32"})
    second = first.model_copy(
        update={
            "files": (
                one.model_copy(update={"sha256": "0" * 64}),
                two.model_copy(update={"size": two.size + 1}),
                FileRecord(path="unet/more", sha256="0" * 64, size=0),
            ),
            "graphs": (graph,),
            "toolchain": {**first.toolchain, "click": "9"},
            "created": "2027-01-01T00:00:00Z",
            "digest": "1" * 64,
        }
    )
    assert {difference.path: difference.problem for difference in file_differences(first, second)} == {
        one.path: "has the same size and another content",
        two.path: f"has {two.size} bytes and {two.size + 1} bytes",
        three.path: "is only in the first",
        "unet/more": "is only in the second",
    }
    assert [(each.field, each.first, each.second) for each in field_differences(first, second)] == [
        ("graphs.unet.precision", "fp16", "fp32"),
        ("toolchain.click", "0.0.1", "9"),
        ("created", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    ]


def test_a_reproducible_build_has_the_time_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EPOCH, "86400")
    assert created_now() == "1970-01-02T00:00:00+00:00"
    for wrong in ("soon", "1e3", "9" * 30):
        monkeypatch.setenv(EPOCH, wrong)
        with pytest.raises(UsageError, match="no number of seconds"):
            created_now()
    monkeypatch.delenv(EPOCH)
    assert created_now() > "2026"


def test_the_command_prints_them(latentc: Any, tmp_path: Path) -> None:
    made(tmp_path / "a")
    made(tmp_path / "b", device="gpu")
    ended = latentc("inspect", tmp_path / "a", "--against", tmp_path / "b")
    assert ended.code == 0 and "All 3 files are the same." in ended.out and '"gpu"' in ended.out
    told = json.loads(latentc("inspect", tmp_path / "a", "--against", tmp_path / "b", "--json").out)
    assert told == {"files": [], "fields": [{"field": "device", "first": "cpu", "second": "gpu"}]}
    assert latentc("inspect", tmp_path / "a", "--against", tmp_path / "none").code == 1
