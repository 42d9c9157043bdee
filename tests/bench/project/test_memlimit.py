from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from bench.project import memlimit
from bench.project.memlimit import MIB, Group, run


def groups_can_be_made() -> bool:
    try:
        with Group(64 * MIB):
            return True
    except LatentcError:
        return False


needs_groups = pytest.mark.skipif(not groups_can_be_made(), reason="no memory control group can be made here")
HOLD = "import sys; data = bytearray(int(sys.argv[1]) << 20); sys.exit(int(sys.argv[2]))"


@needs_groups
def test_what_fits_keeps_its_status() -> None:
    usage = run([sys.executable, "-c", HOLD, "60", "3"], 100 * MIB)
    assert (usage.status, usage.killed) == (3, False)
    assert usage.peak is not None and 60 * MIB < usage.peak <= 100 * MIB
    # No upper bound: the system counts what this process held when it started the other.
    assert usage.resident is not None and usage.resident > 60 * MIB


@needs_groups
def test_over_the_limit_it_is_killed() -> None:
    usage = run([sys.executable, "-c", HOLD, "160", "0"], 100 * MIB)
    assert (usage.status, usage.killed) == (137, True)


@needs_groups
def test_a_child_that_is_killed_counts_too() -> None:
    child = "import subprocess, sys; subprocess.call([sys.executable, '-c', 'bytearray(160 << 20)'])"
    usage = run([sys.executable, "-c", child], 100 * MIB)
    assert (usage.status, usage.killed) == (137, True)


@needs_groups
def test_the_group_is_gone_and_so_is_what_the_command_left() -> None:
    left = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with Group(200 * MIB) as group:
        memlimit._finish(
            [sys.executable, "-c", memlimit.ENTER, str(group.entry), sys.executable, "-c", left],
            group,
            None,
            None,
            None,
        )
        assert group.entry.read_text().split()
    assert not group.folder.exists()


def test_without_a_limit_no_group_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.project.memlimit.CGROUPS", tmp_path)
    usage = run([sys.executable, "-c", HOLD, "1", "4"])
    assert (usage.status, usage.killed, usage.peak) == (4, False, None)


def test_elsewhere_the_message_says_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.project.memlimit.CGROUPS", tmp_path)
    with pytest.raises(LatentcError, match="needs Linux control groups") as caught:
        run([sys.executable, "-c", ""], MIB)
    assert "--no-limits" in str(caught.value)


def test_the_command_line_needs_a_number_and_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.project.memlimit", "many"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "Usage: python -m bench.project.memlimit MIB COMMAND" in done.stderr
