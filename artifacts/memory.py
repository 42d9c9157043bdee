"""How much memory a process can still have here, and had at most."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from artifacts import control_groups

# By the version of control groups: the files with a limit and with what is used, and what cached files are called, in
# version 1 with those of the groups inside.
_FIGURES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
    2: ("memory.max", "memory.current", ("active_file", "inactive_file")),
}


UNLIMITED = 2**60
"""Bytes from which on a limit is none: the first version of control groups says so with the largest number."""


def available() -> int:
    """Bytes that can be had: the system's free memory, or less where a control group of this process says so.

    Files that the system keeps in memory count as free: it drops them first.
    """
    import psutil

    return min([int(psutil.virtual_memory().available), *_left_in_groups()])


def shortage(needed: int) -> str:
    """What is needed and what there is ("3.0 GiB of memory; 1.0 GiB are free"); empty if `needed` bytes can be had."""
    free = available()
    return "" if needed <= free else f"{needed / 2**30:.1f} GiB of memory; {free / 2**30:.1f} GiB are free"


def high_water(pid: int) -> int | None:
    """Bytes that the process held at most, by the kernel's count; None where it keeps none."""
    if sys.platform != "linux":
        return None
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _left_in_groups() -> Iterator[int]:
    for folder, version in control_groups.folders("memory"):
        limit, used, cached = _FIGURES[version]
        try:
            top = int((folder / limit).read_text(encoding="ascii"))
            if top >= UNLIMITED:
                continue
            now = int((folder / used).read_text(encoding="ascii"))
            stat = dict(
                line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            )
        except (OSError, ValueError):  # no such group, or "max"
            continue
        yield max(0, top - now + sum(int(stat.get(name, 0)) for name in cached))
