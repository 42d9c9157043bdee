"""A disk that is full, or becomes full: what is said, and what is still there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import artifacts.publish
from artifacts.disk import free_bytes
from artifacts.errors import LatentcError, UsageError
from artifacts.verification import verify
from artifacts.workspace import Workspace
from tests.artifacts.workspace_parts import KEY, OTHER, build


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_while_building(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Workspace(out) as ws:
        build(ws, OTHER)
        with pytest.raises(LatentcError) as caught, ws.build(KEY) as building:
            (building.folder / "model.onnx").write_bytes(b"x" * 5000)
            raise full()
        assert caught.value.message.startswith(f"the disk of {tmp_path} is full: more than 5.0 kB needed, ")
        assert caught.value.message.endswith(f" free. {out} was not touched.")
        assert "finished parts are kept" in caught.value.hint
        with pytest.raises(LatentcError, match=r"is full: 7\.0 kB needed"), ws.build(KEY, needs=7000):
            raise full()
        # A vendor's own exception, in whose text alone the system's error is.
        with pytest.raises(LatentcError, match="is full"), ws.build(KEY):
            raise RuntimeError("write: No space left on device [28]")
        with pytest.raises(RuntimeError, match="bug"), ws.build(KEY):
            raise RuntimeError("bug")
    with Workspace(out) as ws:
        assert ws.finished(OTHER) is not None
        assert ws.finished(KEY) is None


def test_more_than_is_free_is_refused_before_the_work(tmp_path: Path) -> None:
    with Workspace(tmp_path / "out") as ws:
        with pytest.raises(LatentcError, match="is full"), ws.build(KEY, needs=free_bytes(tmp_path) * 2):
            pytest.fail("the block was entered")
        with ws.build(KEY, needs=10) as building:
            (building.folder / "a").write_text("a")


def test_a_full_disk_while_publishing(fake, artifact: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(path: Path) -> None:
        raise full()

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.publish, "sync_folders", refuse)
        with pytest.raises(LatentcError, match="is full"):
            fake.compile_fake(artifact, "B", tmp_path / "log", force=True)
    assert verify(artifact) == ()
    (tmp_path / "log").unlink()
    fake.compile_fake(artifact, "B", tmp_path / "log", force=True)
    assert (tmp_path / "log").read_text() == "reused unet\nreused vae_decoder\n"
    assert verify(artifact) == ()


def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("no mounts here")
    try:
        with Workspace(disk / "out") as ws:
            build(ws, OTHER)
            with (
                pytest.raises(LatentcError, match=r"more than .* kB needed, .* kB free"),
                ws.build(KEY) as building,
            ):
                (building.folder / "model.onnx").write_bytes(b"x" * 1_000_000)
            assert ws.finished(OTHER) is not None
        assert not (disk / "out").exists()
        with pytest.raises(UsageError, match="mounted disk"), Workspace(disk):
            pass
    finally:
        subprocess.run(["umount", disk], check=True)


def test_free_bytes_of_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0
