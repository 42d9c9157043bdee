"""Where the cache is: what the user says, where the system keeps caches, and without a home."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifacts.cache import cache_dir
from artifacts.disk import existing_folder, write_cached


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


def test_threads_may_write_one_file_of_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "note"
    texts = [str(number).encode() * 1000 for number in range(4)]

    def write(text: bytes) -> None:
        for _ in range(100):
            write_cached(file, text)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(write, texts)) == [None] * 4
    assert file.read_bytes() in texts and [p.name for p in file.parent.iterdir()] == ["note"]


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_cached(tmp_path / "file" / "note", b"a")
    write_cached(tmp_path / ("n" * 300), b"a")
    (tmp_path / "folder" / "note").mkdir(parents=True)
    write_cached(tmp_path / "folder" / "note", b"a")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["note"]


def test_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "a" / "b", tmp_path / "file", tmp_path / "file" / "c"):
        assert existing_folder(path) == tmp_path
    assert existing_folder(Path("/nowhere/at/all")) == Path("/").absolute()
