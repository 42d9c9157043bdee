from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from artifacts import temporary
from artifacts.errors import LatentcError
from runtimes.sessions.temporary_weights import TemporaryWeights

KILLED = """
import os, signal, sys, tempfile
from artifacts.temporary import own_folder
with own_folder():
    open(os.path.join(tempfile.mkdtemp(), "file"), "w").close()
    print(tempfile.gettempdir(), flush=True)
    os._exit(9) if sys.argv[1] == "killed" else sys.stdin.read()
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_everything_temporary_lies_in_one_folder_that_goes(base: Path) -> None:
    with temporary.own_folder():
        inside = Path(tempfile.mkdtemp())
        assert inside.parent.parent == base and inside.parent.name.startswith(temporary.PREFIX)
        assert os.environ["TMPDIR"] == str(inside.parent)
    assert list(base.iterdir()) == []
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(base)


def aged(folder: Path) -> None:
    past = time.time() - 2 * temporary._YOUNG
    os.utime(folder, (past, past))


def test_what_a_killed_process_left_goes_with_the_next_and_nothing_else(base: Path) -> None:
    command = [sys.executable, "-c", KILLED]
    subprocess.run([*command, "killed"], stdout=subprocess.PIPE, timeout=60)
    (left,) = base.iterdir()
    running = subprocess.Popen(
        [*command, "running"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        used = Path(running.stdout.readline().strip())
        stranger = base / "latentc-cache-x"
        stranger.mkdir()
        for folder in (left, used, stranger):
            aged(folder)
        with temporary.own_folder():
            assert not left.exists() and used.is_dir() and stranger.is_dir()
    finally:
        running.communicate("", timeout=60)
    assert list(base.iterdir()) == [stranger]


def test_weights_of_a_killed_process_go_with_the_next(base: Path) -> None:
    made = "import os; from runtimes.sessions.temporary_weights import TemporaryWeights as T; t = T(); os._exit(9)"
    subprocess.run([sys.executable, "-c", made], timeout=60)
    (left,) = base.iterdir()
    aged(left)
    weights = TemporaryWeights()
    assert weights.folder.is_dir()
    assert not left.exists()
    weights.remove()
    weights.remove()
    assert list(base.iterdir()) == []


def test_a_folder_beside_something_is_hidden_and_goes_with_the_next(base: Path) -> None:
    beside = base / "artifacts"
    beside.mkdir()
    made = "import os, sys; from pathlib import Path; from artifacts.temporary import locked_folder as made; "
    subprocess.run(
        [sys.executable, "-c", f"{made}f = made(Path(sys.argv[1])); os._exit(9)", str(beside)], timeout=60
    )
    (left,) = beside.iterdir()
    assert left.name.startswith(".latentc-run-")
    aged(left)
    with temporary.private_folder(beside) as folder:
        assert folder.parent == beside and list(beside.iterdir()) == [folder]
    assert list(beside.iterdir()) == []
    with (
        pytest.raises(LatentcError, match="nowhere cannot be written"),
        temporary.private_folder(base / "nowhere"),
    ):
        pass


def test_without_a_temporary_folder_the_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object, **kwargs: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with temporary.own_folder():
        pass
