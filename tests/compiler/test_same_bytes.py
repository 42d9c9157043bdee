"""Two compiles of one model give the same bytes, in whatever folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.creation_time import EPOCH
from artifacts.difference import field_differences, file_differences
from artifacts.manifest_reading import read_manifest
from compiler.build import compile
from compiler.compile_request import CompileRequest


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "directml"])
def test_two_compiles_give_the_same_bytes(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = tmp_path / "a", tmp_path / "elsewhere" / "deeper" / "b"
    for at, place in enumerate(places):
        monkeypatch.setenv(EPOCH, "86400")
        monkeypatch.chdir(tmp_path if at else Path.cwd())
        compile(CompileRequest("shapes", place, target, check="none"))
    first, second = map(contents, places)
    manifests = [read_manifest(place) for place in places]
    assert file_differences(*manifests) == () == field_differences(*manifests)
    assert first == second  # the manifest and its digest, too
