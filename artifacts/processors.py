"""How many processors this process may use: of the machine's, those that it is bound to, and its container's share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from artifacts.memory import CGROUPS, OWN


def processors() -> int:
    """At least 1; a share of a processor counts as a whole one."""
    return max(1, min((_bound(), *map(math.ceil, _quotas()))))


def limit() -> int | None:
    """`processors`, where they are fewer than the machine's; else None."""
    count = processors()
    return count if count < (os.cpu_count() or 1) else None


def _bound() -> int:
    """Those that the process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """The processors' time that each control group of this process is given, in processors."""
    for folder, version in _groups():
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            else:
                quota, period = (
                    (folder / name).read_text(encoding="ascii")
                    for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                )
            if int(quota) > 0 and int(period) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError):  # no such group, or "max"
            continue


def _groups() -> Iterator[tuple[Path, int]]:
    """The folders of this process's groups up to the first, and the version of what is in them."""
    try:
        lines = OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    paths = {"": "/", "cpu": "/"}
    for line in lines:
        _, kinds, path = line.split(":", 2)
        paths |= dict.fromkeys(kinds.split(","), path)
    for root, path, version in ((CGROUPS / "cpu", paths["cpu"], 1), (CGROUPS, paths[""], 2)):
        steps = path.strip("/").split("/")
        for depth in range(len(steps), -1, -1):
            yield root.joinpath(*steps[:depth]), version
