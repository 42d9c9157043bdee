"""How much memory a process can still have here, and had at most."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows its control groups: those of version 2, or, in "memory", those of version 1."""
OWN = Path("/proc/self/cgroup")
"""The groups of this process, one line for each hierarchy: "4:memory:/a/b", or "0::/a/b" of version 2."""

# What a group's own figures call files in memory: version 2, and version 1 with the groups inside of it.
_FILES = ("active_file", "inactive_file")
_TOTAL = ("total_active_file", "total_inactive_file")


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
    for folder, limit, used, cached in _groups():
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


def _groups() -> Iterator[tuple[Path, str, str, tuple[str, ...]]]:
    """The folders of this process's groups, up to the first; the files in them, and what cached files are called."""
    try:
        lines = OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    # A container often sees its own group as the first, and a path that is not there.
    places = {"memory": "/", "": "/"} | {
        kinds: path for _, kinds, path in (line.split(":", 2) for line in lines)
    }
    for root, path, files in (
        (CGROUPS / "memory", places["memory"], ("memory.limit_in_bytes", "memory.usage_in_bytes", _TOTAL)),
        (CGROUPS, places[""], ("memory.max", "memory.current", _FILES)),
    ):
        steps = path.strip("/").split("/")
        for depth in range(len(steps), -1, -1):
            yield (root.joinpath(*steps[:depth]), *files)
