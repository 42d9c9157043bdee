"""What holds without a GPU: which engines are refused, and how a machine says what it lacks."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import Built
from runtimes import tensorrt
from runtimes.tensorrt import SESSION
from targets.tensorrt import BUILDERS

ENGINE = b"not an engine, but nobody gets as far as to see"
GPU = [("NVIDIA GeForce RTX 4090", "sm89")]


def built(**changes: object) -> Built:
    made: Built = {
        "builder": "rtx",
        "version": "1.2.3",
        "compute_capabilities": ["sm89", "sm120"],
        "sha256": hashlib.sha256(ENGINE).hexdigest(),
    }
    return made | changes  # type: ignore[operator]


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    file = tmp_path / "unet" / "model.engine"
    file.parent.mkdir()
    file.write_bytes(ENGINE)
    return file


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "version_here", lambda builder: "1.2.3")


def gpus(monkeypatch: pytest.MonkeyPatch, found: list[tuple[str, str]]) -> None:
    monkeypatch.setattr(tensorrt, "_gpus", lambda: found)


@pytest.mark.parametrize(
    ("here", "lacks"),
    [
        (GPU, ""),
        ([("NVIDIA H200", "sm90"), *GPU], ""),
        ([("NVIDIA H200", "sm90")], "an NVIDIA GPU of sm89 or sm120; here is: NVIDIA H200 (sm90)"),
        ([], "an NVIDIA GPU of sm89 or sm120; here is: none"),
    ],
)
def test_what_a_machine_lacks(
    monkeypatch: pytest.MonkeyPatch, here: list[tuple[str, str]], lacks: str
) -> None:
    gpus(monkeypatch, here)
    assert SESSION.lacks(built()) == lacks


def test_another_gpu_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, engine: Path) -> None:
    gpus(monkeypatch, [("NVIDIA H200", "sm90")])
    with pytest.raises(LatentcError) as caught:
        SESSION.open(engine, "auto", "fp16", None, built())
    assert caught.value.message == "unet needs an NVIDIA GPU of sm89 or sm120; here is: NVIDIA H200 (sm90)."
    assert "--target onnxruntime" in caught.value.hint


@pytest.mark.parametrize("told", [None, built(sha256="0" * 64), {}])
def test_only_the_engine_of_the_manifest_is_loaded(
    monkeypatch: pytest.MonkeyPatch, engine: Path, told: Built | None
) -> None:
    gpus(monkeypatch, GPU)
    with pytest.raises(LatentcError, match="not the engine that the manifest names"):
        SESSION.open(engine, "auto", "fp16", None, told)


def test_a_link_is_refused(monkeypatch: pytest.MonkeyPatch, engine: Path) -> None:
    gpus(monkeypatch, GPU)
    link = engine.parent / "link.engine"
    try:
        link.symlink_to(engine)
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.raises(LatentcError, match="plain file"):
        SESSION.open(link, "auto", "fp16", None, built())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"version": "1.2.4"},
            r"needs TensorRT-RTX 1.2.4, which built it; here is: 1.2.3.\n"
            r"Run: pip install tensorrt_rtx_cu13_bindings==1.2.4 tensorrt_rtx_cu13_libs==1.2.4",
        ),
        ({"builder": "other"}, r"no builder 'other' \(there are: rtx, tensorrt\)"),
    ],
)
def test_another_builder(
    monkeypatch: pytest.MonkeyPatch, engine: Path, change: dict[str, object], message: str
) -> None:
    gpus(monkeypatch, GPU)
    with pytest.raises(LatentcError, match=message):
        SESSION.open(engine, "auto", "fp16", None, built(**change))


def test_devices_are_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, [*GPU, ("NVIDIA H200", "sm90")])
    assert [(d.name, d.description) for d in SESSION.devices()] == [
        ("cuda", "NVIDIA GeForce RTX 4090 (sm89)"),
        ("cuda.1", "NVIDIA H200 (sm90)"),
    ]
    monkeypatch.setattr(tensorrt, "version_here", lambda builder: "")
    assert SESSION.devices() == ()


@pytest.mark.skipif(
    importlib.util.find_spec(BUILDERS["rtx"].module) is None, reason="TensorRT-RTX is not installed"
)
def test_an_engine_that_is_none_is_our_error(monkeypatch: pytest.MonkeyPatch, engine: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    gpus(monkeypatch, GPU)
    with pytest.raises(LatentcError, match="tensorrt cannot open unet/model.engine"):
        SESSION.open(engine, "auto", "fp16", None, built())
