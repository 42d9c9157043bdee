"""Artifacts whose files are changed, missing, links or surplus; and what is read again, and what is not."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import FileRecord
from artifacts.manifest_reading import read_manifest
from artifacts.progress import Event
from artifacts.verification import Finding, Opening, _content, findings_text, open_artifact, verify

MODEL = "unet/model.onnx"
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file kinds")


def problems(artifact: Path, **options: bool) -> dict[str, str]:
    return {finding.path: finding.problem for finding in verify(artifact, **options)}


def test_a_sound_artifact(artifact: Path) -> None:
    assert verify(artifact) == verify(artifact, deep=False) == ()
    opened = open_artifact(str(artifact))
    assert opened.root == artifact
    assert opened.manifest.graphs[0].model_file == MODEL
    assert open_artifact(artifact, hashes=False) == opened


def test_progress_counts_every_byte(artifact: Path) -> None:
    events: list[Event] = []
    verify(artifact, progress=events.append)
    total = sum(file.size for file in read_manifest(artifact).files)
    assert events[-1] == Event("verifying", total, total, "bytes")


def refuse(artifact: Path, message: str, hashes: bool = True) -> None:
    with pytest.raises(LatentcError, match=message) as caught:
        open_artifact(artifact, hashes)
    assert "latentc verify" in caught.value.hint


def read(artifact: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Opens it; the names of the files that were read for it."""
    names: list[str] = []

    def noted(path: Path, file: FileRecord, *rest: Any) -> str:
        names.append(file.path)
        return _content(path, file, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("artifacts.verification._content", noted)
        # A file's change of state cannot be dated back.
        patched.setattr("artifacts.verified_before.SETTLED_NS", -(10**18))
        open_artifact(artifact, memory=memory)
    return names


def test_files_are_read_while_the_caller_does_something_else(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several at a time, and told of from the caller's thread alone."""
    together = threading.Barrier(2, timeout=20)
    import artifacts.verification as module

    def noted(path: Path, file: FileRecord, *rest: Any) -> str:
        if path.name == "model.onnx":  # there are two of them
            together.wait()
        return _content(path, file, *rest)

    monkeypatch.setattr(module, "_content", noted)
    tellers = set()
    with Opening(artifact) as opening:
        opened = opening.finish(lambda event: tellers.add(threading.current_thread()))
    assert opened == open_artifact(artifact) and tellers == {threading.main_thread()}


def test_a_caller_that_gives_up_waits_for_no_file(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import artifacts.verification as module

    begun = threading.Event()

    def endless(path: Path, file: FileRecord, info: Any, advance: Callable[[int], None]) -> str:
        begun.set()
        while True:
            advance(0)

    monkeypatch.setattr(module, "_content", endless)
    with pytest.raises(KeyboardInterrupt), Opening(artifact):
        assert begun.wait(20)
        raise KeyboardInterrupt


def test_what_was_compared_and_has_not_changed_is_not_read_again(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    listed = [file.path for file in read_manifest(artifact).files]
    assert sorted(read(artifact, memory, monkeypatch)) == sorted(listed)
    assert read(artifact, memory, monkeypatch) == []
    before = (artifact / MODEL).stat()
    data = (artifact / MODEL).read_bytes()
    (artifact / MODEL).write_bytes(data)  # the same again
    os.utime(artifact / MODEL, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert read(artifact, memory, monkeypatch) == [MODEL]
    (artifact / MODEL).write_bytes(data[::-1])  # as long, at another time
    os.utime(artifact / MODEL, ns=(before.st_atime_ns, before.st_mtime_ns + 2))
    for _ in range(2):
        with pytest.raises(LatentcError, match="has SHA-256"):
            read(artifact, memory, monkeypatch)
    # What a person asks to be verified is read, whatever is remembered.
    assert set(problems(artifact)) == {MODEL}


@posix
def test_a_change_that_hides_its_time_is_found(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(artifact, tmp_path / "memory", monkeypatch)
    before = (artifact / MODEL).stat()
    (artifact / MODEL).write_bytes((artifact / MODEL).read_bytes()[::-1])
    os.utime(artifact / MODEL, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(LatentcError, match="has SHA-256"):
        read(artifact, tmp_path / "memory", monkeypatch)


def test_what_is_new_is_not_remembered(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifacts.verified_before.SETTLED_NS", 3600 * 10**9)  # on a machine of any speed
    open_artifact(artifact, memory=tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"unet/model.onnx": 3}', "{", "\udcff"])
def test_a_memory_that_is_damaged_or_cannot_be_written_costs_time_alone(
    text: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    read(artifact, memory, monkeypatch)
    (kept,) = memory.iterdir()
    kept.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert MODEL in read(artifact, memory, monkeypatch)
    assert read(artifact, memory, monkeypatch) == []
    in_the_way = tmp_path / "a file"
    in_the_way.write_text("")
    assert MODEL in read(artifact, in_the_way, monkeypatch)


def test_changed_content(artifact: Path) -> None:
    path = artifact / MODEL
    path.write_bytes(path.read_bytes()[::-1])
    assert "SHA-256" in problems(artifact)[MODEL]
    refuse(artifact, "SHA-256")
    assert verify(artifact, deep=False) == ()  # which is what deep=False says it does not see


def test_truncated(artifact: Path) -> None:
    path = artifact / MODEL
    path.write_bytes(path.read_bytes()[:-1])
    assert problems(artifact, deep=False) == {MODEL: "has 5 bytes, the manifest says 6"}
    refuse(artifact, "has 5 bytes", hashes=False)


def test_missing(artifact: Path) -> None:
    (artifact / MODEL).unlink()
    assert problems(artifact) == {MODEL: "is listed in the manifest and missing"}
    refuse(artifact, "missing")


@pytest.mark.parametrize("name", ["unet/extra.bin", "unet/new/extra.bin", "scheduler/x.json", "config.json"])
def test_an_unlisted_file_where_loaders_read(artifact: Path, name: str) -> None:
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_text("x")
    assert problems(artifact) == {name: "is not listed in the manifest"}
    refuse(artifact, "not listed")


@pytest.mark.parametrize("name", ["out.png", "images/out.png", "UNET.txt"])
def test_an_unlisted_file_elsewhere_may_lie_there_when_run(artifact: Path, name: str) -> None:
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_text("x")
    assert problems(artifact) == {name: "is not listed in the manifest"}
    open_artifact(artifact)


def test_litter_of_file_managers_is_passed_over(artifact: Path) -> None:
    (artifact / "unet" / ".DS_Store").write_text("x")
    assert verify(artifact) == ()


@posix
def test_symbolic_links(artifact: Path, tmp_path: Path) -> None:
    path = artifact / MODEL
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert problems(artifact) == {MODEL: "is a link, not a file"}
    refuse(artifact, "is a link", hashes=False)


@posix
def test_a_folder_that_is_a_symbolic_link(artifact: Path, tmp_path: Path) -> None:
    (artifact / "unet").rename(tmp_path / "elsewhere")
    (artifact / "unet").symlink_to(tmp_path / "elsewhere")
    problem_of = problems(artifact)
    assert problem_of[MODEL] == "is listed in the manifest and missing"
    assert problem_of["unet"] == "is not listed in the manifest and is a link"
    refuse(artifact, "missing")


@posix
def test_hard_links(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").hardlink_to(artifact / MODEL)
    assert "hard link" in problems(artifact)[MODEL]
    refuse(artifact, "hard link", hashes=False)


@posix
def test_fifos_and_sockets_are_not_opened(artifact: Path, monkeypatch) -> None:
    (artifact / MODEL).unlink()
    os.mkfifo(artifact / MODEL)
    monkeypatch.chdir(artifact / "vae_decoder")  # a socket's path may have 100 characters
    Path("model.onnx").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("model.onnx")
        assert problems(artifact) == {
            MODEL: "is not a regular file",
            "vae_decoder/model.onnx": "is not a regular file",
        }
        refuse(artifact, "not a regular file")


@posix
@pytest.mark.parametrize("by", ["link", "copy"])
def test_a_file_replaced_after_it_was_looked_at(artifact: Path, tmp_path: Path, monkeypatch, by: str) -> None:
    """Between the look and the read: even a link to the same bytes, or a copy of them, is refused."""
    import artifacts.verification as module

    real = module.open_regular

    def late(path: Path, expected: os.stat_result) -> Any:
        if path.name == "model.onnx":
            moved = path.rename(tmp_path / path.parent.name)
            path.symlink_to(moved) if by == "link" else path.write_bytes(moved.read_bytes())
        return real(path, expected)

    monkeypatch.setattr(module, "open_regular", late)
    assert "cannot be read" in problems(artifact)[MODEL]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "'a': bad 0"),
        (3, "'a': bad 0; 'a': bad 1; 'a': bad 2"),
        (5, "'a': bad 0; 'a': bad 1; 'a': bad 2; and 2 more"),
    ],
)
def test_a_message_tells_the_first_three_findings(count: int, text: str) -> None:
    assert findings_text([Finding("a", f"bad {number}") for number in range(count)]) == text
