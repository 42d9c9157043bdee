"""A compile killed at any moment: OUT is never half there, and the next run takes up what was finished."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifacts.errors import UsageError
from artifacts.verification import verify
from artifacts.workspace import Workspace

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch) -> None:
    """A kill, unlike a power cut, loses nothing that was written: flushing would only make this slow."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def run_and_kill(fake, out: Path, content: str, log: Path, force: bool, step: int, only: str = "") -> bool:
    """Compiles in a forked child that is killed before its `step`-th change on disk; whether it got there.

    With `only`, just the events of that name whose last path is OUT count.
    """
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, args: tuple[object, ...]) -> None:
            nonlocal seen
            changes = event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & 3)
            if (event == only and Path(str(args[1])) == out) if only else changes:
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            fake.compile_fake(out, content, log, force)
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def assert_nothing_was_built_twice(log: Path) -> None:
    built = [line for line in log.read_text().splitlines() if line.startswith("built")]
    assert len(built) == len(set(built)) <= 2


def content_of(out: Path) -> str:
    assert verify(out) == ()
    return (out / "unet" / "model.onnx").read_text().split()[1]


@posix
@pytest.mark.slow
def test_killed_before_every_change(fake, tmp_path: Path) -> None:
    published = []
    for step in range(1, 1000):
        out, log = tmp_path / str(step) / "out", tmp_path / str(step) / "log"
        out.parent.mkdir()
        log.touch()
        if not run_and_kill(fake, out, "A", log, False, step):
            break
        published.append(out.exists())
        if out.exists():
            assert content_of(out) == "A"
            with pytest.raises(UsageError, match="exists"):
                fake.compile_fake(out, "A", log)
        else:
            fake.compile_fake(out, "A", log)
        assert content_of(out) == "A"
        assert_nothing_was_built_twice(log)
        assert sorted(path.name for path in out.parent.iterdir()) == ["log", "out"]
    assert len(published) > 30
    assert published == sorted(published)
    assert published[-1]


@posix
@pytest.mark.slow
def test_a_replacement_killed_before_every_change(fake, tmp_path: Path) -> None:
    seen = []
    before = fake.compile_fake(tmp_path / "before", "A", tmp_path / "unread")
    for step in range(1, 1000):
        out, log = tmp_path / str(step) / "out", tmp_path / str(step) / "log"
        shutil.copytree(before, out)
        log.touch()
        if not run_and_kill(fake, out, "B", log, True, step):
            break
        seen.append(content_of(out) if out.exists() else "gone")
        with Workspace(out, force=True):  # starting another compile is enough to have one of the two back
            assert content_of(out) == ("A" if seen[-1] == "gone" else seen[-1])
        fake.compile_fake(out, "B", log, force=True)
        assert content_of(out) == "B"
        if seen[-1] != "B":
            assert_nothing_was_built_twice(log)
        assert sorted(path.name for path in out.parent.iterdir()) == ["log", "out"]
    assert seen.count("gone") <= 1  # between the two renames
    assert {"A", "B"} <= set(seen)


@pytest.mark.slow
@posix
def test_killed_twice_in_a_row(fake, tmp_path: Path) -> None:
    """The recovery of one kill, killed itself."""
    choice = random.Random(0)
    for attempt in range(12):
        out, log = tmp_path / str(attempt) / "out", tmp_path / str(attempt) / "log"
        out.parent.mkdir()
        log.touch()
        fake.compile_fake(out, "A", tmp_path / "unread")
        run_and_kill(fake, out, "B", log, True, choice.randrange(35, 60))
        run_and_kill(fake, out, "B", log, True, choice.randrange(5, 30))
        with Workspace(out, force=True):
            before = content_of(out)
        fake.compile_fake(out, "B", log, force=True)
        assert content_of(out) == "B"
        if before == "A":
            assert_nothing_was_built_twice(log)


@posix
def test_something_else_at_out_does_not_cost_the_old_artifact(fake, tmp_path: Path) -> None:
    """Killed between the two renames, and then the user puts another folder at OUT."""
    out, log = tmp_path / "out", tmp_path / "log"
    fake.compile_fake(out, "A", log)
    assert run_and_kill(fake, out, "B", log, True, 1, only="os.rename")
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(Exception, match="something else is there now") as caught, Workspace(out, force=True):
        pass
    assert (out / "mine").read_text() == "mine"
    old = tmp_path / ".out.latentc-work" / "old"
    assert str(old) in str(caught.value)
    assert content_of(old) == "A"
    (out / "mine").unlink()
    out.rmdir()
    with Workspace(out, force=True):
        assert content_of(out) == "A"


@pytest.mark.slow
@posix
def test_killed_at_random_moments(fake, tmp_path: Path) -> None:
    choice, script = random.Random(1), Path(__file__).with_name("fake_compile.py")
    out, log = tmp_path / "out", tmp_path / "log"
    log.touch()
    command = [sys.executable, script, out, "A", log, "no", "0.1"]
    killed = 0
    while killed < 10:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(script.parents[2])})
        # Its start takes most of that; the rest falls into the builds and the publishing.
        time.sleep(choice.uniform(0.0, 0.7))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        if out.exists():
            assert content_of(out) == "A"
            assert_nothing_was_built_twice(log)
            out.rename(tmp_path / f"done-{killed}-{len(list(tmp_path.iterdir()))}")
            log.write_text("")
    fake.compile_fake(out, "A", log)
    assert content_of(out) == "A"
    assert_nothing_was_built_twice(log)
