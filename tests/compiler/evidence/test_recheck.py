"""What a manifest says of its calls and of its source, held to the dry run and to the model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from artifacts.call_trees import TensorLeaf
from artifacts.errors import LatentcError
from artifacts.hashing import file_record
from artifacts.manifest import DimRange, FileRecord, GraphRecord, Manifest, MethodRecord
from compiler.evidence import recheck as module
from tests.compiler.made import method, spec
from tests.latentc.artifacts_made import made

CLASS = "diffusers.models.unets.unet_2d_condition:UNet2DConditionModel"
DIMS = {"batch": DimRange(min=1, max=2)}


def captured() -> Any:
    return SimpleNamespace(methods=[method(dims=DIMS)], classes={"unet": CLASS})


def manifest(
    tmp_path: Path, call: dict[str, Any] | None = None, graph: dict[str, Any] | None = None
) -> Manifest:
    """Of an artifact whose one graph is what the dry run calls, with changes."""
    first = made(tmp_path)
    told: dict[str, Any] = {
        "inputs": (spec("x", "batch", 4),), "outputs": (spec("out", "batch", 4),), "dims": DIMS,
    }  # fmt: skip
    record = MethodRecord(
        method="forward", arguments={"x": TensorLeaf(name="x")}, result=TensorLeaf(name="out"), graph="unet"
    )
    component = first.components[0].model_copy(
        update={"class_path": CLASS, "methods": (record.model_copy(update=call or {}),)}
    )
    graphs = (first.graphs[0].model_copy(update=told | (graph or {})),)
    return first.model_copy(update={"components": (component,), "graphs": graphs})


def test_a_manifest_that_says_what_is_called_is_believed(tmp_path: Path) -> None:
    assert list(module._methods(manifest(tmp_path), captured())) == ["unet"]


@pytest.mark.parametrize(
    ("call", "graph"),
    [
        ({"arguments": {"x": TensorLeaf(name="out")}}, {}),
        ({"result": TensorLeaf(name="x")}, {}),
        ({"method": "encode"}, {}),
        ({"state": {"attn": TensorLeaf(name="x")}}, {}),
        ({}, {"inputs": (spec("y", "batch", 4),)}),
        ({}, {"outputs": ()}),
        ({}, {"dims": {"batch": DimRange(min=1, max=10**9)}}),
    ],
)
def test_another_call_is_not_measured_as_this_one(
    tmp_path: Path, call: dict[str, Any], graph: dict[str, Any]
) -> None:
    with pytest.raises(LatentcError, match="do not call 'unet' as those it was compiled with"):
        module._methods(manifest(tmp_path, call, graph), captured())


def test_no_graph_is_left_out(tmp_path: Path) -> None:
    whole = manifest(tmp_path)
    nothing = whole.model_copy(update={"graphs": (), "components": ()})
    with pytest.raises(LatentcError, match="do not call 'unet'"):
        module._methods(nothing, captured())
    more: GraphRecord = whole.graphs[0].model_copy(update={"folder": "vae"})
    with pytest.raises(LatentcError, match="are not each other's: vae"):
        module._methods(whole.model_copy(update={"graphs": (*whole.graphs, more)}), captured())


def test_a_method_with_a_graph_for_each_number_of_rows_is_captured_so_again(tmp_path: Path) -> None:
    both = manifest(
        tmp_path, graph={"inputs": (spec("x", 2, 4),), "outputs": (spec("out", 2, 4),), "dims": {}}
    )
    rows = method(dims=DIMS, rows=frozenset({"batch"}))
    assert module._fixed_rows(both, [rows]) == {("unet", "forward")}
    assert module._fixed_rows(manifest(tmp_path), [rows]) == set()
    assert module._fixed_rows(both, [method(dims=DIMS), method(component="vae", rows=rows.rows)]) == set()


# --- the source ----------------------------------------------------------------------------------


def test_every_weight_file_is_one_that_the_manifest_tells(tmp_path: Path) -> None:
    root = tmp_path / "model"
    (root / "unet").mkdir(parents=True)
    file = root / "unet" / "weights.safetensors"
    file.write_bytes(b"weights")
    component = SimpleNamespace(weight_files=(file,))
    source: Any = SimpleNamespace(root=root, component=lambda name: component)
    told = manifest(tmp_path)
    with pytest.raises(LatentcError, match=r"does not tell unet/weights\.safetensors"):
        module._require_source(told, source, captured())
    told = told.model_copy(
        update={"source": told.source.model_copy(update={"weights": (file_record(root, file),)})}
    )
    module._require_source(told, source, captured())


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "unet/../../secret"])
def test_no_file_outside_of_the_source_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def read(*args: Any) -> Any:
        raise AssertionError("a file was read")

    monkeypatch.setattr(module, "open_model", lambda name: SimpleNamespace(root=tmp_path / "model"))
    monkeypatch.setattr(module, "file_record", read)
    told = manifest(tmp_path)
    record = FileRecord(path=path, sha256="0" * 64, size=1)
    hostile = told.model_copy(update={"source": told.source.model_copy(update={"weights": (record,)})})
    with pytest.raises(LatentcError, match="names a weight file of the source that"):
        module._source(hostile, lambda event: None)
