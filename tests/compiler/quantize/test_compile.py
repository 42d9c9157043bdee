"""A whole compile of a tiny model with quantized weights: files, evidence, recipe, and what changes its parts."""

from __future__ import annotations

import pytest

from artifacts.errors import UsageError
from artifacts.verification import open_artifact, verify
from compiler import build
from compiler.lowering.compile_cache import CompileCache
from compiler.quantize.recipe import dump
from tests.compiler.made import request

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_checker")]


def test_a_mixed_compile_is_checked_told_and_rebuilt_from_its_recipe(sd15, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    out, plans = tmp_path / "out", []
    compile_cache = CompileCache()
    wanted = request(
        out,
        model=str(sd15),
        quantize="unet=int4:group=32,text_encoder=int8,vae=fp16",
        check="quick",
        pictures=1,
    )
    artifact = build.compile(wanted, on_plan=plans.append, compile_cache=compile_cache)
    assert verify(out) == ()
    graphs = {g.folder: g for g in artifact.manifest.graphs}
    assert {f: g.precision for f, g in graphs.items()} == {
        "text_encoder": "fp32",
        "unet": "fp32",
        "vae_decoder": "fp16",
    }
    assert not graphs["vae_decoder"].weights
    # Sums of taps lose more in few bits than the taps.
    assert "sub-pixel-conv" in graphs["vae_decoder"].rewrites
    assert "sub-pixel-conv" not in graphs["unet"].rewrites
    assert {w.scheme for w in graphs["text_encoder"].weights} - {"none"} == {"int8"}
    assert {w.scheme for w in graphs["unet"].weights} <= {"int4:group=32", "int8", "none"}
    assert "int4:group=32" in {w.scheme for w in graphs["unet"].weights}
    for weight in graphs["unet"].weights:
        assert weight.scheme != "int8" or weight.note
    measured = {f: next(e for e in g.evidence if e.compute == "fp32") for f, g in graphs.items()}
    tolerances = {f: evidence.tolerance for f, evidence in measured.items()}
    assert tolerances == {"text_encoder": 0.15, "unet": 0.6, "vae_decoder": 1e-2}
    assert 1e-3 < measured["unet"].error["out_sample"] < 0.6
    assert [row.scheme for row in plans[0].components] == ["int8", "int4", ""]
    for row in plans[0].components:
        written = sum(graphs[row.folder].schemes.values())
        assert row.bytes * 0.9 < written < row.bytes * 1.1 + 100_000
    types = {
        t.data_type
        for t in onnx.load(out / "unet" / "model.onnx", load_external_data=False).graph.initializer
    }
    assert onnx.TensorProto.INT4 in types
    # Nothing of the scratch file is left.
    assert {p.name for p in (out / "unet").iterdir()} == {"config.json", "model.onnx", "model.onnx_data"}

    # A recipe that quantizes nothing is judged by pictures like any other.
    unquantized = request(tmp_path / "none", model=str(sd15), quantize="vae=fp16")
    build.compile(unquantized, compile_cache=compile_cache)
    manifest = open_artifact(tmp_path / "none").manifest
    assert not any(graph.weights for graph in manifest.graphs)
    assert [pictures.reason for pictures in manifest.pictures] == ["--check none"]

    file = tmp_path / "recipe.toml"
    file.write_text(dump(artifact.manifest.quantization), encoding="utf-8")
    again = tmp_path / "again"
    rebuilt = request(again, model=str(sd15), quantize=str(file))
    build.compile(rebuilt, compile_cache=compile_cache)
    first = {f.path: f.sha256 for f in artifact.manifest.files}
    second = {f.path: f.sha256 for f in open_artifact(again).manifest.files}
    assert first == second


def test_other_weights_are_other_parts(sd15, tmp_path):
    with pytest.raises(UsageError, match=r"'transformer', which the model does not have"):
        build.plan(request(tmp_path / "out", model=str(sd15), quantize="transformer=int8"))
