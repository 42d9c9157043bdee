"""How many processors a process counts: those it is bound to, and its container's share of time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artifacts import control_groups
from artifacts.processors import limit, processors
from runtimes.sessions import common


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of eight processors, all of which this process may use; its control groups are files in a folder."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path)
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")
    monkeypatch.delenv(common.THREADS, raising=False)
    return tmp_path


def test_without_limits_it_is_the_machines_and_vendors_choose(machine: Path) -> None:
    assert processors() == 8 and limit() is None and common.threads() is None


@pytest.mark.parametrize(
    ("text", "count"),
    [("250000 100000", 3), ("50000 100000", 1), ("max 100000", 8), ("1600000 100000", 8), ("nonsense", 8)],
)
def test_the_share_of_a_container_of_version_2(machine: Path, text: str, count: int) -> None:
    (machine / "own").write_text("0::/box/inner\n")
    (machine / "box").mkdir()
    (machine / "box" / "cpu.max").write_text(f"{text}\n")
    assert processors() == count
    assert common.threads() == (count if count < 8 else None)


def test_the_share_of_a_container_of_version_1(machine: Path) -> None:
    (machine / "own").write_text("3:cpu,cpuacct:/box\n4:memory:/box\n")
    folder = machine / "cpu" / "box"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("200000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert processors() == limit() == 2
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert processors() == 8


def test_what_it_is_bound_to_counts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5}, raising=False)
    assert processors() == common.threads() == 2
    monkeypatch.setenv(common.THREADS, "5")
    assert common.threads() == 5, "who asks for more gets it"
