"""Files that a user names: texts, pipes, devices."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from artifacts import named_files
from artifacts.named_files import no_file

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")


def test_a_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffa\r\nb\rc\n".encode())
    assert named_files.read_text(tmp_path / "a") == "a\nb\nc\n"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_a_device_without_an_end() -> None:
    with pytest.raises(OSError, match="more than 1000 bytes") as refused:
        named_files.read_bytes(Path("/dev/zero"), 1000)
    assert refused.value.errno == errno.EFBIG


@posix
def test_a_pipe_that_nobody_writes_to_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert named_files.read_bytes(tmp_path / "pipe") == b""


@posix
def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """As a shell's <(command): the writer is there, and takes its time."""
    reading, writing = os.pipe()
    late = threading.Timer(0.2, lambda: (os.write(writing, b"a circle"), os.close(writing)))
    late.start()
    place = next(Path(folder) for folder in ("/proc/self/fd", "/dev/fd") if Path(folder).exists())
    assert named_files.read_bytes(place / str(reading)) == b"a circle"
    late.join()
    os.close(reading)


@pytest.mark.parametrize("name", ["none", "folder"])
def test_what_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        named_files.read_bytes(tmp_path / name)


@posix
def test_what_may_never_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    reading, writing = os.pipe()
    shell = next(Path(folder) for folder in ("/proc/self/fd", "/dev/fd") if Path(folder).exists()) / str(
        reading
    )
    faults = {name: named_files.may_not_end(tmp_path / name) for name in ("file", "pipe", "link")}
    assert faults == {"file": "", "pipe": "is a named pipe", "link": "is a named pipe"}
    assert named_files.may_not_end(Path(os.devnull)) == "is a device"
    if "proc" in str(shell):
        assert named_files.may_not_end(shell) == ""
    os.close(reading)
    os.close(writing)


def test_a_file_that_is_not_there_is_told_with_one_that_is(tmp_path: Path) -> None:
    gray, cat = tmp_path / "gray.safetensors", tmp_path / "cat.safetensors"
    missing = tmp_path / "grey.safetensors"
    message, hint = no_file("--lora", missing)
    assert message == f"--lora: there is no file {missing}." and hint == "Name one that is there: --lora FILE"
    cat.touch()
    assert no_file("--lora", tmp_path / "x.safetensors")[1] == f"Name one that is there: {cat}"
    gray.touch()
    assert no_file("--lora", missing)[1] == f"Name one that is there: {gray}"
    assert no_file("--lora", tmp_path / "x")[1] == "Name one that is there: --lora FILE"
    assert f"no folder {tmp_path / 'none'}" in no_file("--lora", tmp_path / "none" / "x")[1]
