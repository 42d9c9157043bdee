"""Memory that is left, by the system and by control groups of both versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from artifacts import control_groups, memory

GIB = 2**30


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    class System:
        available = 100 * GIB

    monkeypatch.setattr("psutil.virtual_memory", System)
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")
    return tmp_path


def group(folder: Path, version: int, limit: Any, used: int, cached: int = 0) -> None:
    names = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    total = "" if version == 2 else "total_"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    stat = f"anon 5\n{total}inactive_file {cached // 2}\n{total}active_file {cached - cached // 2}\n"
    (folder / "memory.stat").write_text(stat)


def test_without_groups_it_is_what_the_system_has(place: Path) -> None:
    assert memory.available() == 100 * GIB


@pytest.mark.parametrize(
    ("version", "line", "folder"),
    [
        (2, "0::/a/b", "cgroup"),
        (1, "4:memory:/a/b", "cgroup/memory"),
        (1, "4:cpu,memory:/a/b", "cgroup/memory"),
    ],
)
def test_every_group_that_holds_the_process_counts(place: Path, version: int, line: str, folder: str) -> None:
    (place / "own").write_text(f"9:name=systemd:/\n{line}\n")
    group(place / folder / "a" / "b", version, "max" if version == 2 else 2**63 - 4096, 3 * GIB)
    assert memory.available() == 100 * GIB
    group(place / folder / "a", version, 8 * GIB, 3 * GIB)
    assert memory.available() == 5 * GIB
    group(place / folder / "a" / "b", version, 4 * GIB, 3 * GIB)
    assert memory.available() == GIB
    group(place / folder / "a" / "other", version, GIB, GIB)
    assert memory.available() == GIB


@pytest.mark.parametrize(("version", "folder"), [(2, "cgroup"), (1, "cgroup/memory")])
def test_a_container_that_sees_its_own_group_as_the_first(place: Path, version: int, folder: str) -> None:
    (place / "own").write_text("4:memory:/docker/0123\n0::/docker/0123\n")
    group(place / folder, version, 8 * GIB, 3 * GIB)
    assert memory.available() == 5 * GIB


@pytest.mark.parametrize(("version", "folder"), [(2, "cgroup"), (1, "cgroup/memory")])
def test_files_that_the_system_can_drop_count_as_free(place: Path, version: int, folder: str) -> None:
    group(place / folder, version, 8 * GIB, 8 * GIB, cached=6 * GIB)
    assert memory.available() == 6 * GIB


def test_more_used_than_allowed_is_nothing_left(place: Path) -> None:
    group(place / "cgroup", 2, GIB, 2 * GIB)
    assert memory.available() == 0


def test_a_shortage_says_what_is_needed_and_what_is_there(place: Path) -> None:
    group(place / "cgroup", 2, 8 * GIB, 3 * GIB)
    assert memory.shortage(5 * GIB) == ""
    assert memory.shortage(6 * GIB) == "6.0 GiB of memory; 5.0 GiB are free"
