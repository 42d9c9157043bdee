"""What the system refuses becomes one message, that says what is full, read-only, failing or used up."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from artifacts import foreseen
from artifacts.errors import LatentcError, UsageError
from artifacts.verification import open_artifact
from artifacts.workspace import Workspace
from tests.artifacts.fake_compile import compile_fake


def refused(number: int, *files: str) -> OSError:
    return OSError(number, os.strerror(number), *files)


def said(error: BaseException) -> LatentcError:
    message = foreseen.message(error)
    assert message is not None
    return message


@pytest.mark.parametrize(
    "name", ["EACCES", "EPERM", "EROFS", "EIO", "ENAMETOOLONG", "ENOTDIR", "ENOENT", "EBUSY", "ELOOP"]
)
def test_a_file_that_the_system_refuses(name: str) -> None:
    number = getattr(errno, name)
    message = said(refused(number, "/data/out"))
    assert message.message == f"/data/out cannot be used: {os.strerror(number)}."
    assert message.hint and message.exit_code == 1


def test_both_names_of_a_rename_are_told() -> None:
    error = OSError(errno.EIO, "Input/output error", "/a", None, "/b")
    assert said(error).message == "/a -> /b cannot be used: Input/output error."


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE"])
def test_descriptors_are_used_up(name: str) -> None:
    message = said(refused(getattr(errno, name), "/data/out"))
    assert "too many files are open" in message.message and "ulimit -n" in message.hint
    assert "too many files" in said(RuntimeError("vendor: cannot map: Too many open files")).message


def test_memory_is_used_up() -> None:
    assert said(MemoryError()).message == "there is not enough memory."
    assert "Unable to allocate 8 TiB" in said(MemoryError("Unable to allocate 8 TiB")).message


def test_what_is_used_up_is_told_from_what_is_refused() -> None:
    threads = foreseen.exhausted(RuntimeError("can't start new thread"))
    assert threads is not None and "no more threads" in threads.message
    for number in (errno.EMFILE, errno.ENOSPC):
        assert foreseen.exhausted(refused(number, "/data/out")) is not None
    for number in (errno.ENOENT, errno.EACCES):
        assert foreseen.exhausted(refused(number, "/data/out")) is None


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    message = said(refused(errno.ENOSPC, str(tmp_path / "a.bin"))).message
    assert message.startswith(f"the disk of {tmp_path} is full: ")


def test_the_full_disk_of_a_copy_is_the_one_that_it_writes_to(tmp_path: Path) -> None:
    """shutil names the file that it reads first."""
    error = OSError(errno.ENOSPC, "No space left on device", "/read/a.bin", None, str(tmp_path / "b.bin"))
    assert said(error).message.startswith(f"the disk of {tmp_path} is full: ")
    with (
        pytest.raises(LatentcError) as full,
        Workspace(tmp_path / "out") as workspace,
        workspace.build("0" * 64),
    ):
        raise OSError(
            errno.ENOSPC, "No space left on device", "/read/a.bin", None, str(workspace.out / "b.bin")
        )
    assert f"the disk of {tmp_path} is full" in full.value.message


def test_a_full_temporary_folder_is_said_to_be_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(foreseen, "free_bytes", lambda path: 0)
    for error in (
        refused(errno.ENOSPC),
        refused(errno.ENOSPC, str(tmp_path / "tmpabc" / "x")),
        refused(errno.EDQUOT),
    ):
        message = said(error)
        assert f"the temporary folder {tmp_path}" in message.message and "TMPDIR" in message.hint
    assert said(refused(errno.EIO, str(tmp_path / "latentc-x"))).message.startswith("the temporary file ")


def test_a_vendors_words_for_a_full_disk() -> None:
    try:
        try:
            raise RuntimeError("write failed: No space left on device")
        except RuntimeError as error:
            raise ValueError("cannot save the model") from error
    except ValueError as error:
        assert "full" in said(error).message


def test_no_temporary_folder() -> None:
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    message = said(error)
    assert "no temporary folder that can be written" in message.message and "TMPDIR" in message.hint


def test_no_more_threads() -> None:
    assert "no more threads" in said(RuntimeError("can't start new thread")).message


@pytest.mark.parametrize(
    "bug",
    [
        RuntimeError("a bug"),
        ValueError("a bug"),
        OSError("of a library, in its own words"),
        RecursionError(),
        KeyError(1),
    ],
)
def test_bugs_stay_bugs(bug: Exception) -> None:
    assert foreseen.message(bug) is None
    with pytest.raises(type(bug)), foreseen.foreseen():
        raise bug


def test_messages_pass_as_they_are() -> None:
    with pytest.raises(UsageError), foreseen.foreseen():
        raise UsageError("wrong")


# --- a compile, each of whose calls of the system fails once ------------------------------------------


class Failing:
    """A function of `os` whose call number `at` on a file of the test's fails."""

    def __init__(self, name: str, at: int, number: int, below: Path) -> None:
        self.real, self.at, self.number, self.below = getattr(os, name), at, number, str(below)
        self.by_handle = name == "fsync"
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.by_handle or str(args[0] if args else "").startswith(self.below):
            self.calls += 1
            if self.calls - 1 == self.at:
                raise OSError(self.number, os.strerror(self.number), str(args[0]))
        return self.real(*args, **kwargs)


@pytest.mark.parametrize(
    ("call", "every"),
    [
        ("rename", 1),
        *(
            pytest.param(call, every, marks=pytest.mark.slow)
            for call, every in (("replace", 1), ("fsync", 3), ("mkdir", 3), ("unlink", 1), ("lstat", 7))
        ),
    ],
)
def test_whatever_call_fails_is_a_message_and_the_next_run_is_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, every: int
) -> None:
    """Where there are many calls, one in `every` of them fails."""
    out, log = tmp_path / "out", tmp_path / "log"
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # No power is cut here.
    for at in range(0, 200, every):
        failing = Failing(call, at, (errno.EIO, errno.EMFILE, errno.EACCES)[at // every % 3], tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            with suppress(LatentcError):
                compile_fake(out, "content", log)
        assert not out.exists() or open_artifact(out).root == out
        compile_fake(out, "content", log, force=True)
        assert open_artifact(out).root == out
        assert sorted(os.listdir(tmp_path)) == ["log", "out"]
        shutil.rmtree(out)
        if failing.calls <= at:
            break
    else:
        raise AssertionError("more calls than were tried")


def test_out_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match="file is a file, not a folder"),
        Workspace(tmp_path / "file" / "a" / "out"),
    ):
        pass


def test_a_name_as_long_as_the_disk_takes(tmp_path: Path) -> None:
    out = tmp_path / ("n" * 255)
    assert compile_fake(out, "content", tmp_path / "log") == out
    assert sorted(os.listdir(tmp_path)) == ["log", out.name]
    with pytest.raises(LatentcError, match="File name too long"), Workspace(tmp_path / ("n" * 300)):
        pass
