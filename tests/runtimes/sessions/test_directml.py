from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtimes.sessions.directml as directml
from artifacts.errors import LatentcError
from artifacts.manifest import DimRange
from runtimes.sessions.directml import ON_CPU, SESSION
from runtimes.sessions.session_contract import ExplainsDevice
from targets.directml.target import TARGET
from targets.target_contract import Context
from tests.contract.graphs import Denoiser
from tests.contract.session_contract import SessionContract

DIMS = {"batch": DimRange(min=1, max=2), "tokens": DimRange(min=3, max=3)}


class TestDirectMl(SessionContract):
    target = "directml"
    vendor = "onnxruntime"
    further = frozenset({ExplainsDevice})


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """DirectML's provider, played by the CPU's; what sessions were opened with."""
    import onnxruntime as ort

    opened: list[tuple[str, Any]] = []
    real = ort.InferenceSession

    def session(file: str, options: Any, providers: list[str], **more: Any) -> Any:
        opened.append((Path(file).name, (options, providers)))
        made = real(file, options, providers=["CPUExecutionProvider"], **more)
        made.get_providers = lambda: providers
        return made

    monkeypatch.setattr(ort, "InferenceSession", session)
    both = ["DmlExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: both)
    return opened


def test_one_graph_is_opened_for_each_size_that_is_asked_for(
    tmp_path: Path, pretended: list[tuple[str, Any]]
) -> None:
    import onnxruntime as ort

    written = TARGET.lower(Denoiser().model(20), TARGET.options(), tmp_path, Context(dims=DIMS))
    session = SESSION.open(tmp_path / written.model_file, "auto", "fp32", None, written.built)
    assert not pretended
    assert session.inputs["sample"].shape == ("batch", "tokens", 64)
    for batch in (2, 1, 2):
        inputs = Denoiser().inputs(batch, 3)
        expected = Denoiser().expected(inputs)["out_sample"]
        assert np.allclose(session.run(inputs)["out_sample"], expected, atol=1e-4)
    assert [name for name, _ in pretended] == ["directml-batch2-tokens3.onnx", "directml-batch1-tokens3.onnx"]
    options, providers = pretended[0][1]
    assert providers == ["DmlExecutionProvider", "CPUExecutionProvider"]
    assert not options.enable_mem_pattern
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    with pytest.raises(
        LatentcError, match=r"compiled for batch 1, tokens 3; batch 2, tokens 3; asked for batch 5"
    ):
        session.run(Denoiser().inputs(5, 3))
    session.close()
    with pytest.raises(LatentcError, match="closed"):
        session.run(Denoiser().inputs(2, 3))


def test_without_the_provider_the_error_says_what_to_install(tmp_path: Path) -> None:
    if len(SESSION.devices()) > 1:
        pytest.skip("DirectML's provider is here")
    written = TARGET.lower(Denoiser().model(20), TARGET.options(), tmp_path, Context(dims=DIMS))
    with pytest.raises(LatentcError, match=r"no DmlExecutionProvider.*\n.*pip install onnxruntime-directml"):
        SESSION.open(tmp_path / written.model_file, "directml", "fp32", None, written.built)
    (cpu,) = SESSION.devices()
    assert cpu.note == ON_CPU
    assert "slow" in ON_CPU


@pytest.mark.parametrize("file", ["../other.onnx", "C:other.onnx", "a/b.onnx", ""])
def test_a_file_elsewhere_is_refused(file: str, tmp_path: Path, pretended: list[tuple[str, Any]]) -> None:
    written = TARGET.lower(Denoiser().model(20), TARGET.options(), tmp_path, Context(dims=DIMS))
    built: Any = {"graphs": [{"file": file, "dims": {"batch": 2}}]}
    with pytest.raises(LatentcError, match="not a plain file name"):
        SESSION.open(tmp_path / written.model_file, "directml", "fp32", None, built)
    assert directml.PROVIDER in pretended or not pretended
