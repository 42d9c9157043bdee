"""The control groups of Linux that this process is in, whose limits hold for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows them: those of version 2, or, in a folder of the controller's name, those of version 1."""
OWN = Path("/proc/self/cgroup")
"""The groups of this process, a line for each hierarchy: "4:cpu,cpuacct:/a/b", or "0::/a/b" of version 2."""


def folders(controller: str) -> Iterator[tuple[Path, Literal[1, 2]]]:
    """The folders of this process's groups up to the first, and the version of what is in them; some are not there.

    Args:
        controller: "memory", "cpu".
    """
    try:
        lines = OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    # A container often sees its own group as the first, and a path that is not there.
    paths = {"": "/", controller: "/"}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    yield from ((folder, 1) for folder in _upwards(CGROUPS / controller, paths[controller]))
    yield from ((folder, 2) for folder in _upwards(CGROUPS, paths[""]))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    steps = path.strip("/").split("/")
    return (root.joinpath(*steps[:depth]) for depth in range(len(steps), -1, -1))
