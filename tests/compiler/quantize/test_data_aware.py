"""int4 whose values follow the data, from the preflight to the artifact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from compiler import build
from compiler.capture.capture import Capture
from compiler.capture.declared_sizes import SizeRange
from compiler.lowering.compile_cache import CompileCache
from compiler.lowering.graph_job import toolchain
from compiler.quantize import data_aware, method_table
from compiler.quantize.recipe import Choice, read, resolve, with_method
from targets import target_table as targets
from targets.data_aware_contract import Values
from targets.openvino.nncf import NncfMethod
from targets.target_contract import Availability
from tests.compiler.made import method, request, stored


@pytest.mark.parametrize("name", method_table.METHODS)
def test_a_method_has_the_name_that_its_table_gives_it(name):
    assert method_table.get(name).name == name


def test_a_method_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UsageError, match="no data-aware method 'spqr'.*awq, scale-estimation, gptq"):
        method_table.get("spqr")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_targets_take_methods_of_the_table(name):
    assert targets.get(name).requirements.methods <= set(method_table.METHODS)


@dataclass(frozen=True)
class Kept:
    """A method of no vendor, which leaves the first weight out."""

    name: str = "gptq"

    def available(self):
        return Availability(False, "it is not ready", "Wait")

    def toolchain(self):
        return {"kept": "7"}

    def compress(self, model_file, weights, calls):
        assert [call["x"].tolist() for call in calls] == [[1.0], [2.0]]
        for weight in weights[1:]:
            values = np.arange(8, dtype=np.int8)[None]
            yield weight, Values(values, np.ones((1, 1), np.float32), None, None)


KEPT = Kept()


def test_the_table_decides_what_a_method_is(monkeypatch, tmp_path):
    monkeypatch.setitem(method_table.METHODS, "gptq", f"{__name__}:KEPT")
    with pytest.raises(LatentcError, match=r"method=gptq cannot be had here: it is not ready.\nWait"):
        data_aware.require("unet", 1, {"gptq"})
    choice = Choice(read("unet=int4:method=gptq").components["unet"])
    assert toolchain(targets.get("onnxruntime"), choice)["kept"] == "7"
    assert "kept" not in toolchain(targets.get("onnxruntime"), Choice(None))
    monkeypatch.setattr(data_aware, "read_inputs", lambda file: [{"x": np.ones(1)}, {"x": np.full(1, 2.0)}])
    job = data_aware.DataAwareJob(
        model_file="", calls="", method="gptq", weights=(("a", 8, False), ("b", 8, False)), out=str(tmp_path)
    )
    data_aware.work(job)
    assert [file.name for file in tmp_path.iterdir()] == ["1.npz"]


def test_a_component_that_does_not_fit_is_refused_with_the_next_command(monkeypatch):
    monkeypatch.setattr("artifacts.memory.available", lambda: 3 * 2**30)
    monkeypatch.setattr(NncfMethod, "available", lambda method: Availability(True))
    data_aware.require("unet", data_aware.memory_needed(1_000_000, 1_000_000), {"awq"})
    with pytest.raises(LatentcError) as refused:
        data_aware.require("unet", data_aware.memory_needed(860_000_000, 6_553_600), {"awq"})
    assert "it takes about 12.7 GiB of memory; 3.0 GiB are free" in refused.value.message
    assert "--quantize unet=int4" in str(refused.value.hint)


def test_the_plan_asks_for_the_memory_and_stops_without_it(monkeypatch, tmp_path):
    one = DimRange(min=1, max=1)
    weights = {"w": stored("w", 10_000, 10_000)}
    found = Capture(
        {}, (method(used=frozenset(weights)),), {}, {"unet": weights}, {}, SizeRange(one, one), one, ()
    )
    recipes = {
        name: resolve(read(f"unet={name}"), {"unet": ["unet"]}, targets.get("openvino"))
        for name in ("int4", "int4:method=gptq")
    }
    monkeypatch.setattr(NncfMethod, "available", lambda method: Availability(True))
    monkeypatch.setattr("artifacts.memory.available", lambda: 2**40)
    wanted = request(tmp_path / "out", target="openvino")
    plain = build._plan(wanted, found, recipes["int4"])
    told = build._plan(wanted, found, recipes["int4:method=gptq"])
    assert told.peak_memory == data_aware.memory_needed(10**8, 10**8) > plain.peak_memory
    monkeypatch.setattr("artifacts.memory.available", lambda: told.peak_memory - 1)
    assert build._plan(wanted, found, recipes["int4"]).peak_memory == plain.peak_memory
    with pytest.raises(LatentcError, match="several times over"):
        build._plan(wanted, found, recipes["int4:method=gptq"])


def test_without_nncf_its_command_is_told(monkeypatch):
    missing = Availability(False, "the package 'nncf' is not installed", "pip install nncf")
    monkeypatch.setattr(NncfMethod, "available", lambda method: missing)
    with pytest.raises(LatentcError, match=r"the package 'nncf' is not installed.\npip install nncf"):
        data_aware.require("unet", 1, {"gptq"})


@pytest.fixture(scope="module")
def compile_cache():
    return CompileCache()


@pytest.mark.slow
@pytest.mark.usefixtures("one_checker")
@pytest.mark.parametrize("name", method_table.METHODS)
def test_a_compile_whose_weights_follow_the_data(name, sd15, compile_cache, tmp_path, monkeypatch):
    """Every product of the UNet that is in four bits, with the evidence of any int4 weight, the same each time."""
    monkeypatch.setattr(data_aware, "CALLS", 8)
    pytest.importorskip("nncf")
    ov = pytest.importorskip("openvino")
    spec = with_method(read("unet=int4:group=32,small=0"), name)
    wanted = request(
        tmp_path / "out", model=str(sd15), target="openvino", quantize=spec, check="quick", pictures=0
    )
    manifest = build.compile(wanted, compile_cache=compile_cache).manifest
    assert "nncf" in manifest.toolchain
    graph = next(g for g in manifest.graphs if g.folder == "unet")
    by_data = [w for w in graph.weights if f"method={name}" in w.scheme]
    own = [w for w in graph.weights if w.scheme.startswith("int4") and w not in by_data]
    assert by_data and all(0.02 < w.error < 0.4 and not w.note for w in by_data)
    assert own and {w.note for w in own} == {f"no {name}: a convolution"}
    assert all(evidence.error["out_sample"] < 0.6 for evidence in graph.evidence)
    model = ov.Core().read_model(tmp_path / "out" / "unet" / "openvino_model.xml")
    kinds = [
        op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant"
    ]
    assert kinds.count("i4") == len(by_data) + len(own)
    again = request(tmp_path / "again", model=str(sd15), target="openvino", quantize=spec)
    build.compile(again, compile_cache=compile_cache)
    first, second = (
        np.fromfile(tmp_path / place / "unet" / "openvino_model.bin", np.uint8) for place in ("out", "again")
    )
    assert np.array_equal(first, second)


@pytest.mark.slow
def test_what_text_to_image_does_not_call_in_one_way_is_refused(sd15, tmp_path):
    spec = with_method(read("vae=int4:group=32,small=0"), "awq")
    wanted = request(
        tmp_path / "out", model=str(sd15), target="openvino", quantize=spec, tasks=("image-to-image",)
    )
    with pytest.raises(UsageError, match="int4 with method=awq is measured with text-to-image"):
        build.compile(wanted)
