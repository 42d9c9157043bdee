"""Kinds of trials in which what a campaign must see happens, where the change planted it."""

from __future__ import annotations

import os
import pickle
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from artifacts.errors import LatentcError
from artifacts.manifest import MANIFEST_NAME
from bench.project.campaign_kinds import Kind, manifest_bits

PLANTED = "planted"
"""A link that the change adds. What is sound, which a process uses first, has none."""

DEVICES = Path(os.devnull).parent


class Odd(LatentcError):
    """Its pickle names it."""


def plant(root: Path, rng: random.Random) -> str:
    (root / PLANTED).symlink_to(os.devnull)
    return f"planted {rng.random()}"


def planted(use: Callable[[Path], object], **options: float) -> Kind:
    def use_planted(root: Path) -> None:
        if os.path.lexists(root / PLANTED):
            use(root)

    return Kind(plant, use_planted, damage=False, **options)  # type: ignore[arg-type]


def broken(root: Path) -> None:
    raise KeyError("a reader with a fault")


def typed(root: Path) -> None:
    raise LatentcError("a message")


def allowed(root: Path) -> None:
    (root / MANIFEST_NAME).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "inner").mkdir()
        Path(folder, "inner", "file").write_text("a file", encoding="utf-8")
    with tempfile.TemporaryFile() as file:
        file.write(b"a file")


def swallowed(root: Path) -> None:
    try:
        DEVICES.joinpath("nowhere").open()
    except OSError:
        return


FORBIDDEN = {
    "opens outside": (lambda root: DEVICES.joinpath("zero").open(), "opened "),
    "opens what a link leads to": (lambda root: (root / PLANTED).read_bytes(), "opened "),
    "hides what it opens": (swallowed, "opened "),
    "writes beside": (lambda root: (root / "new").write_text(""), "for writing"),
    "removes": (lambda root: (root / MANIFEST_NAME).unlink(), "os.remove of "),
    "renames": (lambda root: (root / MANIFEST_NAME).rename(root / "other"), "os.rename of "),
    "connects": (lambda root: socket.create_connection(("127.0.0.1", 9)), "used the network"),
    "unpickles": (lambda root: pickle.loads(pickle.dumps(Odd)), "looked up a pickle's class"),  # noqa: S301
    "starts a process": (lambda root: subprocess.run([sys.executable, "-c", ""]), "started a process"),
}
"""Kind -> what it does, and what is said of it."""

KINDS = {
    "taken for whole": Kind(manifest_bits, lambda root: None, damage=True),
    "broken": planted(broken),
    "typed": planted(typed),
    "allowed": planted(allowed),
    "sleeps": planted(lambda root: time.sleep(60), seconds=0.5),
    "takes memory": planted(lambda root: b"a" * (400 << 20), memory=300 << 20),
    "ends": planted(lambda root: os._exit(3)),
    **{name: planted(use) for name, (use, _) in FORBIDDEN.items()},
}
