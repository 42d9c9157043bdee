"""A copy of an artifact is the artifact, or is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artifacts.copying import copy_artifact
from artifacts.errors import LatentcError, UsageError
from artifacts.verification import open_artifact, verify


def test_a_copy_is_the_artifact(artifact: Path, tmp_path: Path) -> None:
    (artifact / "picture.png").write_bytes(b"not the artifact's")
    opened = open_artifact(artifact)
    out = copy_artifact(opened, tmp_path / "deep" / "copy")
    assert verify(out) == () and open_artifact(out).manifest == opened.manifest
    assert sorted(p.name for p in out.parent.iterdir()) == ["copy"]  # No work folder is left.
    with pytest.raises(UsageError, match="copy exists"):
        copy_artifact(opened, out)
    (out / "latentc.json").touch()
    assert copy_artifact(opened, out, force=True) == out and verify(out) == ()


@pytest.mark.parametrize("change", ["content", "missing", "link"])
def test_what_has_changed_is_not_copied(artifact: Path, tmp_path: Path, change: str) -> None:
    opened = open_artifact(artifact)
    name = opened.manifest.files[0].path
    file = artifact / name
    data = file.read_bytes()
    file.unlink()
    if change == "content":
        file.write_bytes(data + b" ")
    elif change == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        try:
            os.symlink(tmp_path / "elsewhere", file)
        except OSError:
            pytest.skip("links cannot be made here")
    with pytest.raises(LatentcError, match=f"not what was verified: {name} is missing or has changed"):
        copy_artifact(opened, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
