"""Two compiles of one model give the same bytes, in whatever folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from artifacts.creation_time import EPOCH
from artifacts.difference import field_differences, file_differences
from artifacts.manifest_reading import read_manifest
from compiler.build import compile
from compiler.compile_request import CompileRequest


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def compiled_twice(
    target: str, options: dict[str, str], work: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    places = work / "a", work / "elsewhere" / "deeper" / "b"
    for at, place in enumerate(places):
        monkeypatch.setenv(EPOCH, "86400")
        monkeypatch.chdir(work if at else Path.cwd())
        compile(CompileRequest("shapes", place, target, check="none", options=options))
    return places


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "directml"])
def test_two_compiles_give_the_same_bytes(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = compiled_twice(target, {}, tmp_path, monkeypatch)
    first, second = map(contents, places)
    manifests = [read_manifest(place) for place in places]
    assert file_differences(*manifests) == () == field_differences(*manifests)
    assert first == second  # the manifest and its digest, too


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed"
)
def test_two_compiles_for_tensorrt_differ_in_its_builder_s_engines_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = map(contents, compiled_twice("tensorrt", {"gpu": "sm89"}, tmp_path, monkeypatch))
    assert first.keys() == second.keys()
    differing = {name for name in first if first[name] != second[name]}
    # The manifest has the engines' digests.
    assert {name for name in differing if not name.endswith(".engine")} <= {"latentc.json"}
