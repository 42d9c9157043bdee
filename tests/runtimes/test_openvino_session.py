from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtimes.openvino import SESSION
from tests.contract.graphs import Denoiser
from tests.contract.session_contract import SessionContract


class TestOpenVino(SessionContract):
    target = "openvino"
    vendor = "openvino"

    def test_the_second_start_loads_a_blob_without_weights(self, tmp_path: Path) -> None:
        file = self.write(Denoiser("fp32").model(), tmp_path / "unet")
        cache = tmp_path / "cache"
        first = self.open(file, cache=cache)
        blobs = [p for p in cache.rglob("*") if p.is_file()]
        assert blobs
        stored = (file.parent / "openvino_model.bin").stat().st_size
        assert sum(p.stat().st_size for p in blobs) < stored
        second: Any = self.open(file, cache=cache)
        assert not first._model.get_property("LOADED_FROM_CACHE")
        assert second._model.get_property("LOADED_FROM_CACHE")

    def test_activations_are_not_rounded_unasked(self, tmp_path: Path) -> None:
        opened: Any = self.open(self.write(Denoiser("fp32").model(), tmp_path / "unet"))
        assert opened._model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0


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
