"""A scheme that nothing here names does all that ours do: it is compiled, checked, fallen back from and searched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import UsageError
from artifacts.progress import silent
from compiler import build
from compiler.compile_request import CompileRequest
from compiler.quantize import accept, scheme_table, sensitivity
from compiler.quantize.decide import decide
from compiler.quantize.find import Layout
from compiler.quantize.recipe import dump, load, read, resolve
from targets import target_table as targets
from tests.compiler.passes.graphs import bind, parse
from tests.contract.int6 import TOP, Int6Options

NAMES = {"unet": ["unet"]}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = metadata.entry_points
    entry = metadata.EntryPoint("int6", "tests.contract.int6:SCHEME", scheme_table.ENTRY_POINTS)
    found = {scheme_table.ENTRY_POINTS: [entry]}
    monkeypatch.setattr(metadata, "entry_points", lambda group: [*real(group=group), *found.get(group, [])])
    yield


def test_it_is_read_and_written_like_any_other(tmp_path):
    recipe = read("unet=int6:top=15,small=0")
    assert recipe.components["unet"].options == {"top": 15, "small": 0}
    file = tmp_path / "r.toml"
    file.write_text(dump(recipe), encoding="utf-8")
    assert load(file) == recipe
    with pytest.raises(UsageError, match=r"schemes: .*int8-activations, int6, fp32"):
        read("int5")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_target_takes_it_for_what_it_is_stored_as(name):
    target = targets.get(name)
    resolved = resolve(read("unet=int6"), NAMES, target)
    assert resolved.components["unet"].scheme == "int6"
    assert ("int6", Int6Options(small=0)) in accept.candidates(target.requirements)


def test_a_target_that_does_not_read_its_format_refuses_it(monkeypatch):
    target = targets.get("onnxruntime")
    lesser = replace(target.requirements, weight_formats=frozenset({"blocked int4"}))
    monkeypatch.setattr(type(target), "requirements", lesser)
    with pytest.raises(
        UsageError, match=r"does not take int6 weights \(it takes: int4\).\nUse --quantize int4"
    ):
        resolve(read("unet=int6"), NAMES, target)
    assert not accept.candidates(replace(lesser, weight_formats=frozenset()))


def test_it_falls_back_with_its_reason():
    decision = decide("int6", Int6Options(), Layout("conv", (64, 64, 3, 3), 0))
    assert (decision.label, decision.note) == ("int8", "int8: a convolution")
    assert decide("int6", Int6Options(top=15), Layout("linear", (64, 64), 0)).label == "int6:top=15"


def test_a_search_weighs_it_against_the_others(tmp_path):
    rng = np.random.default_rng(0)
    body = "(float[B,64] x, float[64,64] w) => (float[B,64] y) { y = MatMul(x, w) }"
    model = bind(parse(body), tmp_path, w=rng.standard_normal((64, 64)).astype(np.float32))
    calls = [{"x": rng.standard_normal((5, 64)).astype(np.float32)}]
    choices = accept.candidates(targets.get("openvino").requirements)
    found = {o.scheme: o for o in sensitivity.measure(model, "unet", calls, choices, silent).options["w"]}
    six, eight, four = (found[name] for name in ("int6:small=0", "int8:small=0", "int4:group=64,small=0"))
    assert six.bytes == eight.bytes and eight.error < six.error < four.error


@pytest.mark.slow
@pytest.mark.usefixtures("one_checker")
def test_shapes_is_compiled_with_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    request = CompileRequest("shapes", tmp_path / "out", "onnxruntime", quantize="unet=int6", pictures=0)
    manifest = build.compile(request).manifest
    unet = next(graph for graph in manifest.graphs if graph.folder == "unet")
    assert {w.scheme for w in unet.weights} == {"int6", "int8", "none"}
    assert {w.note for w in unet.weights if w.scheme == "int8"} == {"int8: a convolution"}
    assert unet.evidence
    for evidence in unet.evidence:
        assert evidence.tolerance == 0.4 and max(evidence.error.values()) < 0.1
    tops = [
        int(np.abs(onnx.numpy_helper.to_array(tensor)).max())
        for tensor in onnx.load(tmp_path / "out" / unet.model_file).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    ]
    stored = [{"int6": TOP, "int8": 127}[w.scheme] for w in unet.weights if w.scheme != "none"]
    assert sorted(tops) == sorted(stored)
