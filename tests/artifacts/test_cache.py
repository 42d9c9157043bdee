"""Where the cache is: what the user says, where the system keeps caches, and without a home."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.cache import cache_dir


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LATENTC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_the_users_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own places")
def test_where_linux_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "latentc"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "latentc"


NOBODY = """
import os, pwd

def unknown(uid):
    raise KeyError(uid)

os.environ.pop("HOME", None)
pwd.getpwuid = unknown
from artifacts.cache import cache_dir
folder = cache_dir()
assert folder == cache_dir() and folder.stat().st_mode & 0o777 == 0o700
(folder / "kept").touch()
print(folder)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="users have a profile there")
def test_a_user_without_a_home_has_a_folder_for_the_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NOBODY], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    assert folder.is_absolute() and not folder.exists()
