from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtimes.openvino import SESSION, WORTH
from tests.contract.graphs import Denoiser
from tests.contract.session_contract import SessionContract, error


class TestOpenVino(SessionContract):
    target = "openvino"
    vendor = "openvino"

    def test_the_second_start_loads_a_blob_without_weights(self, tmp_path: Path) -> None:
        file = self.write(Denoiser("fp32").model(), tmp_path / "unet")
        cache = tmp_path / "cache"
        first: Any = self.open(file, cache=cache)
        first.run(Denoiser().inputs())
        blobs = [p for p in cache.rglob("*") if p.is_file()]
        assert blobs
        stored = (file.parent / "openvino_model.bin").stat().st_size
        assert sum(p.stat().st_size for p in blobs) < stored
        second: Any = self.open(file, cache=cache)
        second.run(Denoiser().inputs())
        assert not first._model.get_property("LOADED_FROM_CACHE")
        assert second._model.get_property("LOADED_FROM_CACHE")

    def test_shapes_that_stay_are_compiled_for(self, tmp_path: Path) -> None:
        session: Any = self.denoiser(tmp_path)
        for _ in range(WORTH):
            session.run(Denoiser().inputs(2, 3))
        assert [port.get_partial_shape().is_static for port in session._model.inputs] == [True] * 3
        first = session._model
        session.run(Denoiser().inputs(2, 3))
        assert session._model is first
        session.run(Denoiser().inputs(2, 4))
        assert list(session._model.inputs[0].shape)[:2] == [2, 4]

    def test_shapes_that_change_are_compiled_once(self, tmp_path: Path) -> None:
        session: Any = self.denoiser(tmp_path)
        session.run(Denoiser().inputs(2, 3))
        session.run(Denoiser().inputs(2, 4))
        model = session._model
        assert model.inputs[0].get_partial_shape().is_dynamic
        for tokens in (3, 4, 5):
            inputs = Denoiser().inputs(2, tokens)
            found = session.run(inputs)["out_sample"]
            assert error(found, Denoiser().expected(inputs)["out_sample"]) < 1e-5
        assert session._model is model


class _Core:
    """Stands for `openvino.Core`, with the capabilities of some device."""

    def __init__(self, *capabilities: str) -> None:
        self.capabilities = list(capabilities)

    def get_property(self, device: str, name: str) -> list[str]:
        assert name == "OPTIMIZATION_CAPABILITIES"
        return self.capabilities


@pytest.mark.parametrize(
    ("device", "precision", "can", "hint"),
    [
        ("CPU", "fp32", ("FP32", "BF16"), "f32"),
        ("CPU", "fp16", ("FP32", "BF16", "FP16"), "f32"),
        ("CPU", "bf16", ("FP32", "BF16"), "bf16"),
        ("CPU", "bf16", ("FP32",), "f32"),
        ("GPU", "fp32", ("FP32", "FP16"), "f32"),
        ("GPU.1", "fp16", ("FP32", "FP16"), "f16"),
        ("GPU", "bf16", ("FP32", "FP16"), "f16"),
    ],
)
def test_precision_of_the_arithmetic(device: str, precision: str, can: tuple[str, ...], hint: str) -> None:
    assert SESSION._precision(_Core(*can), device, precision) == {"INFERENCE_PRECISION_HINT": hint}


def test_npus_are_given_no_hint() -> None:
    assert SESSION._precision(_Core("FP16"), "NPU", "fp16") == {}


def test_files_of_other_frameworks_are_not_offered_to_openvinos_frontends(tmp_path: Path) -> None:
    file = tmp_path / "openvino_model.xml"
    file.write_bytes(b"\x08\x04 a frozen TensorFlow graph")
    with pytest.raises(Exception, match="is not an OpenVINO model"):
        SESSION.open(file, "cpu", "fp32", None)
