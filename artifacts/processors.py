"""How many processors this process may use: of the machine's, those that it is bound to, and its container's share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from artifacts import control_groups


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
    for folder, version in control_groups.folders("cpu"):
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
