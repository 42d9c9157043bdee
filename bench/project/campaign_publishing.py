"""Trials of publishing: a process that writes an artifact is killed at a random moment, or its disk becomes full.

That process is a fork, which need not start anew: it publishes a copy of an artifact through the work folder that a
compile writes through.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from artifacts.errors import LatentcError
from artifacts.foreseen import foreseen
from artifacts.hashing import content_key
from artifacts.manifest import FileRecord, Manifest
from artifacts.manifest_reading import read_manifest
from artifacts.verification import open_artifact
from artifacts.workspace import Workspace

PLAN = "plan.json"
"""What a trial does, beside the copy of the artifact: "at" (a share of a run) or "room" (of the bytes), and "force"."""
_measured: list[float] = []


@dataclass(frozen=True)
class _End:
    """How a process ended: the message that it printed, if any, and how many seconds it wrote for."""

    message: str
    seconds: float


_ROOM_AGAIN = 1 << 30
"""Bytes of a disk that has room again."""


def killed(root: Path, rng: random.Random) -> str:
    """Plans a kill while OUT is published."""
    return _plan(root, at=rng.uniform(0, 1.05), force=False)


def killed_replacing(root: Path, rng: random.Random) -> str:
    """Plans a kill while OUT is replaced (`--force`)."""
    return _plan(root, at=rng.uniform(0, 1.05), force=True)


def full_disk(root: Path, rng: random.Random) -> str:
    """Plans a disk that has room for a part of the artifact, new or in another one's place."""
    return _plan(root, room=rng.uniform(0, 1.1), force=rng.random() < 0.5)


def publish_and_look(root: Path) -> None:
    """Does what is planned beside `root`, looks at what is there, publishes again and looks again.

    Raises:
        LatentcError: what the process said when its disk was full; all else was right.
        RuntimeError: OUT is half there, the next run does not work, or something is left behind.
    """
    plan = json.loads((root.parent / PLAN).read_text(encoding="utf-8"))
    place = root.parent / "disk"
    place.mkdir()
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    with _disk(place) as grow:
        out, force = place / "out", plan["force"]
        if force:
            shutil.copytree(root, out)
        room = None if "room" not in plan else int(plan["room"] * size)
        limit = grow(room + size * force) if room is not None else None
        kill_at = plan["at"] * _seconds_of_a_run(root) if "at" in plan else None
        # Where no disk of its own can be mounted, files may not grow instead.
        message = _published(root, out, force, kill_at, room if limit is None else None).message
        if limit is not None:
            grow(_ROOM_AGAIN)
        _look(out, must_be_there=force)
        if again := _published(root, out, force=out.exists()).message:
            raise RuntimeError(f"the next run fails: {again}")
        _look(out, must_be_there=True)
        if left := sorted(path.name for path in place.iterdir() if path != out):
            raise RuntimeError(f"{', '.join(left)} is left behind")
    if message:
        raise LatentcError(message)


def _plan(root: Path, **plan: Any) -> str:
    (root.parent / PLAN).write_text(json.dumps(plan), encoding="utf-8")
    return json.dumps(plan)


def _look(out: Path, must_be_there: bool) -> None:
    if out.exists():
        try:
            open_artifact(out)
        except LatentcError as error:
            raise RuntimeError(f"OUT is half there: {error.message}") from error
    elif must_be_there and not (out.parent / f".{out.name}.latentc-work").exists():
        raise RuntimeError("OUT is gone, and so is what would bring it back")


def _published(
    root: Path, out: Path, force: bool, kill_at: float | None = None, limit: int | None = None
) -> _End:
    """Publishes in a fork of this process.

    Args:
        kill_at: seconds after it began; None for never.
        limit: bytes that a file may have; None for any number.

    Raises:
        RuntimeError: it ended neither well nor with one message.
    """
    manifest = read_manifest(root)
    reading, writing = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if not child:
        os.dup2(writing, sys.stderr.fileno())
        _publish_and_exit(root, manifest, out, force, limit)
    os.close(writing)
    if kill_at is not None:
        time.sleep(kill_at)
        os.kill(child, signal.SIGKILL)
    with open(reading, encoding="utf-8", errors="replace") as stream:
        errors = stream.read()
    _, status = os.waitpid(child, 0)
    seconds, code = time.monotonic() - start, os.waitstatus_to_exitcode(status)
    if kill_at is not None or code == 0:
        return _End("", seconds)
    if code != 1 or not errors.startswith("Error: "):
        raise RuntimeError(f"the process ended with {code}: {errors[-300:]}")
    return _End(errors.removeprefix("Error: ").strip(), seconds)


def _publish_and_exit(root: Path, manifest: Manifest, out: Path, force: bool, limit: int | None) -> NoReturn:
    """What the fork does: nothing of the process that it is a copy of ends with it."""
    status = 70
    try:
        if limit is not None:
            _limit_files(limit)
        with foreseen():
            _publish(root, manifest, out, force)
        status = 0
    except LatentcError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _seconds_of_a_run(root: Path) -> float:
    """How long a run writes that nothing ends; measured once."""
    if not _measured:
        _measured.append(_published(root, root.parent / "measured", force=False).seconds)
    return _measured[0]


@contextmanager
def _disk(place: Path) -> Iterator[Any]:
    """`grow(bytes)`: gives the disk at `place` so many bytes in all; None where no disk can be mounted there."""
    mounted = False

    def grow(size: int) -> int | None:
        nonlocal mounted
        # A file system of 0 bytes would be one without a limit.
        option = f"{'remount,' if mounted else ''}size={max(size, 1 << 16)}"
        try:
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(place)], capture_output=True, check=False
            )
        except OSError:
            return None
        mounted = mounted or done.returncode == 0
        return size if mounted else None

    try:
        yield grow
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], capture_output=True, check=True)


def _limit_files(size: int) -> None:
    if sys.platform != "win32":
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _publish(root: Path, manifest: Manifest, out: Path, force: bool) -> None:
    folders = {graph.folder for graph in manifest.graphs}
    parts: dict[str, list[str]] = {folder: [] for folder in folders}
    loose: list[str] = []
    for file in manifest.files:
        folder, _, name = file.path.partition("/")
        (parts[folder] if folder in parts and name != "config.json" else loose).append(file.path)

    def copy(paths: Sequence[str], to: Path, below: str = "") -> None:
        for path in paths:
            file = to / path.removeprefix(below)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, file)

    def manifest_of(files: tuple[FileRecord, ...]) -> Manifest:
        return manifest.model_copy(update={"files": files})

    with Workspace(out, force) as workspace:
        keys = {folder: content_key([folder, str(root)]) for folder in parts}
        for folder, key in keys.items():
            if not workspace.finished(key):
                with workspace.build(key) as building:
                    copy(parts[folder], building.folder, f"{folder}/")
        workspace.publish(keys, manifest_of, lambda folder: copy(loose, folder))
