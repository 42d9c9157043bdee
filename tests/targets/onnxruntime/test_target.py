from __future__ import annotations

from pathlib import Path

import onnx

from targets.onnxruntime.target import TARGET, OnnxRuntimeOptions
from targets.target_contract import Context
from tests.contract.graphs import Denoiser
from tests.contract.target_contract import TargetContract


class TestOnnxRuntime(TargetContract):
    name = "onnxruntime"
    vendor = "onnxruntime"


def test_large_tensors_start_on_a_page_and_small_ones_are_inside(tmp_path: Path) -> None:
    TARGET.lower(Denoiser("fp16").model(), OnnxRuntimeOptions(), tmp_path, Context())
    stored = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph.initializer
    outside = [t for t in stored if t.data_location == onnx.TensorProto.EXTERNAL]
    assert sorted(t.name for t in outside) == ["conv", "w0", "w1"]
    for t in outside:
        entries = {e.key: e.value for e in t.external_data}
        assert entries["location"] == "model.onnx_data"
        assert int(entries.get("offset", 0)) % 4096 == 0
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
