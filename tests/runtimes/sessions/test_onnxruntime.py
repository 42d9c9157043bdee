from __future__ import annotations

import gc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from artifacts.errors import LatentcError, UsageError
from runtimes.sessions.file_constants import TakesConstants
from runtimes.sessions.onnx_structure import check_onnx
from runtimes.sessions.onnxruntime import SESSION, OrtSession, OrtSessions, inference_session
from runtimes.sessions.session_contract import Device, OpensParts
from targets.onnxruntime.file_format import FORMAT
from tests.contract.graphs import Denoiser, identity
from tests.contract.session_contract import SessionContract


class TestOnnxRuntime(SessionContract):
    target = "onnxruntime"
    vendor = "onnxruntime"
    further = frozenset({OpensParts, TakesConstants})

    def test_bfloat16_in_and_out(self, tmp_path: Path) -> None:
        session = self.open(self.write(identity(ir.DataType.BFLOAT16, ["n"]), tmp_path))
        given = np.array([1.5, -2, 3e38], ml_dtypes.bfloat16)
        found = session.run({"in": given})["out"]
        gc.collect()
        assert found.dtype == given.dtype
        assert found.tolist() == given.tolist()
        assert session.run({"in": given[:0]})["out"].shape == (0,)


class TestBound(TestOnnxRuntime):
    """The way of a GPU: tensors are placed in the device's memory, which is the CPU's here."""

    def open(
        self, file: Path, precision: str = "fp32", cache: Path | None = None, compute: str = ""
    ) -> OrtSession:
        check_onnx(file, FORMAT)
        return OrtSession(inference_session(file, "cpu", self.target), file.parent.name, self.device, "cpu")


def test_tensors_are_placed_on_the_gpu_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[tuple[str, str | None]] = []
    monkeypatch.setattr(OrtSessions, "devices", lambda self: (Device("cuda", "GPU"), Device("cpu", "CPU")))
    monkeypatch.setattr(
        "runtimes.sessions.onnxruntime.inference_session", lambda file, device, target, *rest: device
    )
    monkeypatch.setattr(
        "runtimes.sessions.onnxruntime.OrtSession",
        lambda session, name, device, memory, *rest: opened.append((device, memory)),
    )
    file = TestOnnxRuntime().write(Denoiser().model(), tmp_path)
    for device in ("cuda", "cpu", "auto"):
        SESSION.open(file, device, "fp32", None)
    assert opened == [("cuda", "cuda"), ("cpu", None), ("cuda", "cuda")]


def test_a_provider_that_does_not_start_is_never_the_cpu_in_silence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As with onnxruntime-gpu on a machine without an NVIDIA GPU."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is here")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    file = TestOnnxRuntime().write(Denoiser().model(), tmp_path)
    with pytest.raises(
        LatentcError, match=r"^ONNX Runtime's CUDAExecutionProvider did not start: .*\n.*--device cpu"
    ):
        SESSION.open(file, "cuda", "fp32", None)
    inputs = Denoiser().inputs()
    assert (
        SESSION.open(file, "auto", "fp32", None).run(inputs)["flipped"].tolist() == (~inputs["flag"]).tolist()
    )
    assert capfd.readouterr() == ("", "")


def test_cuda_that_is_not_installed_is_told_in_one_line(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is here")
    file = TestOnnxRuntime().write(Denoiser().model(), tmp_path)
    with pytest.raises(
        UsageError, match=r"^target 'onnxruntime' has no device 'cuda' here \(there are: .*cpu"
    ):
        SESSION.open(file, "cuda", "fp32", None)


@pytest.mark.parametrize(
    "location",
    ["../model.onnx_data", "/etc/passwd", "sub/model.onnx_data", "sub\\x", "C:x", "C:\\x", ".", "..", ""],
)
def test_external_data_elsewhere_is_refused(location: str, tmp_path: Path) -> None:
    file = TestOnnxRuntime().write(Denoiser().model(), tmp_path / "unet")
    proto = onnx.load(str(file), load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(LatentcError, match="only a plain name of a file beside it is allowed"):
        SESSION.open(file, "cpu", "fp32", None)


def test_external_data_that_ends_early_is_refused(tmp_path: Path) -> None:
    file = TestOnnxRuntime().write(Denoiser().model(), tmp_path)
    data = tmp_path / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(LatentcError, match=r"is at bytes \d+ to \d+ of model\.onnx_data, which has \d+"):
        SESSION.open(file, "cpu", "fp32", None)


def test_azure_is_never_a_device() -> None:
    assert {d.name for d in SESSION.devices()} <= {"cpu", "cuda", "rocm", "migraphx", "directml", "coreml"}
