from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from runtimes.compute import natively
from runtimes.sessions.exact_sizes import TakesSizes
from runtimes.sessions.file_constants import TakesConstants
from runtimes.sessions.openvino import SESSION, computes
from runtimes.sessions.openvino_compiling import hint
from runtimes.sessions.openvino_operators import ONNX_NAMES
from runtimes.sessions.session_contract import BringsFormat, OpensParts, ReplacesFile, SessionFactory
from tests.contract.graphs import Denoiser, model, named, value
from tests.contract.session_contract import SessionContract

FREQUENCIES = np.exp(-np.log(10000) * np.arange(64) / 64).astype(np.float32)


def embedding() -> ir.Model:
    """Sines of a timestep times 64 frequencies, through a matrix product with the identity."""
    timestep = value("timestep", ir.DataType.FLOAT, [1])
    frequencies = ir.Value(name="frequencies", const_value=ir.tensor(FREQUENCIES[None], name="frequencies"))
    weight = ir.Value(name="weight", const_value=ir.tensor(np.eye(64, dtype=np.float32), name="weight"))
    angles = ir.node("Mul", [timestep, frequencies])
    sines = ir.node("Sin", [angles.outputs[0]])
    product = ir.node("MatMul", [sines.outputs[0], weight])
    out = named(product, "embedding", ir.DataType.FLOAT, [1, 64])
    made = model([timestep], [out], [angles, sines, product])
    for each in (frequencies, weight):
        made.graph.initializers[str(each.name)] = each
    return made


def rest() -> ir.Model:
    """All rows but the first two, however many there are, as exporters write "to the end"."""
    rows = value("rows", ir.DataType.FLOAT, ["count", 8])
    numbers = {"start": 2, "end": 2**63 - 1, "axis": 0}
    bounds = [
        ir.Value(name=name, const_value=ir.tensor(np.array([number], np.int64), name=name))
        for name, number in numbers.items()
    ]
    cut = ir.node("Slice", [rows, *bounds])
    made = model([rows], [named(cut, "rest", ir.DataType.FLOAT, ["left", 8])], [cut])
    for bound in bounds:
        made.graph.initializers[str(bound.name)] = bound
    return made


def rotary() -> ir.Model:
    """Halves of each head rotated by angles, times two: what OpenVINO runs as one kernel, and what reads it."""
    return ir.serde.deserialize_model(onnx.parser.parse_model(ROTARY))


ROTARY = """
<ir_version: 10, opset_import: ["" : 21]>
rotary (float[b, 4, n, 8] x, float[b, 1, n, 8] cos, float[b, 1, n, 8] sin) => (float[b, 4, n, 8] rotated)
<int64[1] zero = {0}, int64[1] half = {4}, int64[1] end = {8}, int64[1] axis = {3}, float[1] two = {2.0}>
{
  first = Slice (x, zero, half, axis)
  second = Slice (x, half, end, axis)
  turned = Neg (second)
  swapped = Concat <axis = -1> (turned, first)
  straight = Mul (x, cos)
  across = Mul (swapped, sin)
  sum = Add (straight, across)
  rotated = Mul (sum, two)
}
"""


class TestOpenVino(SessionContract):
    target = "openvino"
    vendor = "openvino"
    further = frozenset({OpensParts, ReplacesFile, BringsFormat, TakesSizes, TakesConstants})

    def test_the_second_start_loads_a_blob_without_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = self.write(Denoiser("fp32").model(), tmp_path / "unet")
        cache = tmp_path / "cache"
        self.open(file, cache=cache)
        blobs = [p for p in cache.rglob("*") if p.is_file()]
        assert blobs
        stored = (file.parent / "openvino_model.bin").stat().st_size
        assert sum(p.stat().st_size for p in blobs) < stored
        written = [p.stat().st_mtime_ns for p in blobs]
        monkeypatch.setattr("openvino.Core.compile_model", lambda *_: pytest.fail("it is compiled again"))
        self.open(file, cache=cache)
        assert [p.stat().st_mtime_ns for p in blobs] == written

    def test_the_second_start_cuts_to_the_same_end(self, tmp_path: Path) -> None:
        """OpenVINO takes half of the number in a file where it reads a blob without weights."""
        file = self.write(rest(), tmp_path / "unet")
        rows = np.arange(40, dtype=np.float32).reshape(5, 8)
        for _ in range(2):
            session = self.open(file, cache=tmp_path / "cache")
            np.testing.assert_array_equal(session.run({"rows": rows})["rest"], rows[2:])

    def test_openvino_is_told_the_type(self, factory: SessionFactory, tmp_path: Path) -> None:
        file = self.write(Denoiser("fp16").model(), tmp_path / "unet")
        (device,) = [d for d in factory.devices() if d.name == self.device]
        for kind in natively(device, "fp16"):
            opened: Any = self.open(file, compute=kind)
            found = opened._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            assert found == {"fp32": "f32", "fp16": "f16"}.get(kind, kind)

    def test_angles_are_exact_in_every_type(self, factory: SessionFactory, tmp_path: Path) -> None:
        """999 times a frequency, rounded to bf16 in front of the sine, is off by up to 2 radians."""
        file = self.write(embedding(), tmp_path / "unet")
        (device,) = [d for d in factory.devices() if d.name == self.device]
        expected = np.sin(999 * FREQUENCIES) @ np.eye(64, dtype=np.float32)
        for kind in natively(device, "fp16"):
            session = self.open(file, compute=kind)
            assert list(session.outputs) == ["embedding"]
            found = session.run({"timestep": np.full((1,), 999, np.float32)})
            assert list(found) == ["embedding"]
            assert np.abs(found["embedding"][0] - expected).max() < 0.01

    def test_a_graph_with_rotary_embeddings_keeps_what_it_computes_in(self, tmp_path: Path) -> None:
        """A call after OpenVINO gave it back would write past its end."""
        rng = np.random.default_rng(0)
        inputs = {
            name: rng.standard_normal((2, heads, 16, 8), np.float32)
            for name, heads in (("x", 4), ("cos", 1), ("sin", 1))
        }
        opened: Any = self.open(self.write(rotary(), tmp_path / "transformer"))
        results = []
        for _ in range(3):
            results.append(opened.run(inputs)["rotated"])
            assert opened.release() is False
        assert all(np.array_equal(result, results[0]) for result in results)
        other: Any = self.open(self.write(embedding(), tmp_path / "unet"))
        assert other.release() is True

    def test_activations_are_not_rounded_unasked(self, tmp_path: Path) -> None:
        opened: Any = self.open(self.write(Denoiser("fp32").model(), tmp_path / "unet"))
        assert opened._model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0


@pytest.mark.parametrize(
    ("device", "can", "expected"),
    [
        ("CPU", ("FP32", "BF16", "INT8"), ("bf16", "fp32")),
        ("CPU", ("FP32", "BF16", "FP16"), ("bf16", "fp32", "fp16")),
        ("CPU", ("FP32", "INT8"), ("fp32",)),
        ("GPU.1", ("FP32", "FP16"), ("fp16", "fp32")),
        ("GPU", ("FP32",), ("fp32",)),
        ("NPU", ("FP16", "INT8"), ("fp16",)),
        ("UNKNOWN", ("FP32", "BF16"), ("fp32",)),
    ],
)
def test_what_a_device_computes_in(device: str, can: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert computes(device, can) == expected


def test_npus_are_given_no_hint() -> None:
    assert hint("NPU", "fp16") == {}
    assert hint("GPU.0", "fp16") == {"INFERENCE_PRECISION_HINT": "f16"}


def test_files_of_other_frameworks_are_not_offered_to_openvinos_frontends(tmp_path: Path) -> None:
    file = tmp_path / "openvino_model.xml"
    file.write_bytes(b"\x08\x04 a frozen TensorFlow graph")
    with pytest.raises(Exception, match="is not an OpenVINO model"):
        SESSION.open(file, "cpu", "fp32", None)


def test_what_operators_are_called_in_onnx() -> None:
    """No name that both have is translated, and none into one that ONNX lacks."""
    assert {name for name in ONNX_NAMES.values() if not onnx.defs.has(name)} == set()
    assert {name for name in ONNX_NAMES if onnx.defs.has(name)} == set()
