"""Files that change after an artifact was verified."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from artifacts.pinned import Pinned
from artifacts.verification import Artifact, open_artifact

FILE = "unet/model.onnx"


def pinned(root: Path) -> Pinned:
    return Pinned(open_artifact(root))


def test_what_has_not_changed_is_read(artifact: Path) -> None:
    files = pinned(artifact)
    assert FILE in files.names("unet")
    assert files.read(FILE) == (artifact / FILE).read_bytes()
    files.check("unet")
    assert files.names("nowhere") == ()


def test_what_is_not_listed_is_not_read(artifact: Path) -> None:
    (artifact / "README.md").write_text("unlisted")
    files = pinned(artifact)
    with pytest.raises(LatentcError, match=r"README\.md is not listed in the manifest"):
        files.read("README.md")


def test_a_file_that_was_written_over_with_itself_is_the_same(artifact: Path) -> None:
    files = pinned(artifact)
    data = (artifact / FILE).read_bytes()
    (artifact / FILE).write_bytes(data)
    files.check("unet")
    (artifact / FILE).unlink()
    (artifact / FILE).write_bytes(data)
    files.check("unet")


def test_what_is_not_known_from_before_is_read(artifact: Path) -> None:
    opened = open_artifact(artifact)
    files = Pinned(Artifact(opened.root, opened.manifest))
    files.check("unet")
    data = bytearray((artifact / FILE).read_bytes())
    data[-1] ^= 1
    (artifact / FILE).write_bytes(data)
    for again in (files, Pinned(Artifact(opened.root, opened.manifest))):
        with pytest.raises(LatentcError, match=r"'unet/model\.onnx'"):
            again.check("unet")


def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def gone(path: Path) -> None:
    path.unlink()


def doubled(path: Path) -> None:
    os.link(path, path.with_name("another name"))


@pytest.mark.parametrize("change", [changed, longer, gone, doubled])
def test_a_file_that_changed_is_an_error(artifact: Path, change: object) -> None:
    files = pinned(artifact)
    assert callable(change)
    change(artifact / FILE)
    with pytest.raises(LatentcError, match=r"has changed since it was loaded: 'unet/model\.onnx'") as error:
        files.check("unet")
    assert "Load the artifact again" in error.value.hint
    with pytest.raises(LatentcError, match="has changed since it was loaded"):
        files.read(FILE)


@pytest.mark.skipif(os.name == "nt", reason="Windows tells no time of change that a program cannot set")
def test_a_change_whose_time_was_set_back_is_an_error(artifact: Path) -> None:
    files = pinned(artifact)
    before = (artifact / FILE).stat()
    changed(artifact / FILE)
    os.utime(artifact / FILE, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(LatentcError, match="has changed since it was loaded"):
        files.check("unet")


def test_a_replaced_file_is_still_the_old_one_for_who_has_it_open(artifact: Path, tmp_path: Path) -> None:
    files = pinned(artifact)
    (artifact / FILE).rename(tmp_path / "old")  # Its number is not given to another file.
    (artifact / FILE).write_bytes(b"another")
    files.check("unet", replaced=True)
    with pytest.raises(LatentcError, match="has changed since it was loaded"):
        files.check("unet")
    (artifact / FILE).unlink()
    files.check("unet", replaced=True)


def test_one_that_was_written_to_is_not(artifact: Path) -> None:
    files = pinned(artifact)
    changed(artifact / FILE)
    with pytest.raises(LatentcError, match="has changed since it was loaded"):
        files.check("unet", replaced=True)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_that_is_turned_to_another_artifact(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(artifact)
    files = pinned(tmp_path / "current")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(tmp_path)
    files.check("unet")
    assert files.read(FILE) == (artifact / FILE).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows tells no time of a rename")
def test_a_folder_that_was_renamed_and_renamed_back_is_noticed(artifact: Path) -> None:
    files = pinned(artifact)
    before = files.folders("unet")
    assert files.folders("unet") == before
    artifact.rename(artifact.with_name("elsewhere"))
    artifact.with_name("elsewhere").rename(artifact)
    assert files.folders("unet") != before
