"""Processes of our own: what they import, and what is said of their end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.worker import command, ending
from tests.strangers import strangers

TOLD = "tests.artifacts.told:main"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of a user's that are called as modules are."""
    return strangers(tmp_path / "here")


def run(folder: Path, *arguments: str, **env: str) -> list[str]:
    """What a process says that was started in `folder`."""
    done = subprocess.run(
        command(TOLD, *arguments), cwd=folder, capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_no_file_of_the_current_folder_is_run(folder: Path) -> None:
    arguments, *path = run(folder, "a b", "{}")
    assert arguments == "['a b', '{}']"
    assert str(folder) not in path and "" not in path


def test_nor_one_beside_the_users_script(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(folder / "draw.py"))
    monkeypatch.syspath_prepend(str(folder))
    assert str(folder) not in run(folder.parent)


def test_it_imports_what_this_process_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder.parent / "added"))
    assert run(folder)[1] == str(folder.parent / "added")


def test_the_users_own_variable_holds(folder: Path) -> None:
    assert str(folder.parent / "theirs") in run(folder, PYTHONPATH=str(folder.parent / "theirs"))


def test_a_folder_that_is_gone_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("a folder that is used stays")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = command(TOLD)
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path) and found[0] == sys.executable


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (3, "ended with status 3"),
        (0, "ended with status 0"),
        (137, "ended with status 137"),
        (-9, "was ended by signal 9 (SIGKILL; out of memory?)"),
        (-11, "was ended by signal 11 (SIGSEGV)"),
        (-250, "was ended by signal 250"),
        (0xC0000017, "ended with status 0xC0000017 (out of memory?)"),
        (0xC0000005, "ended with status 0xC0000005"),
    ],
)
def test_an_end_is_called_what_it_was(status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32" and status < 0:
        pytest.skip("no signals here")
    assert ending(status) == said
