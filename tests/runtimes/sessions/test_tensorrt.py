"""What holds without a GPU: which engines are refused, and how a machine says what it lacks."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.util
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from pathlib import Path
from types import SimpleNamespace

import pytest

from artifacts import trusted_engines
from artifacts.errors import LatentcError
from artifacts.manifest import Built
from artifacts.progress import silent
from runtimes.sessions import tensorrt
from runtimes.sessions.scratch import scratch
from runtimes.sessions.session_contract import RunsCode, SessionFactory
from runtimes.sessions.tensorrt import SESSION
from targets.graph.onnx_files import write_onnx
from targets.target_contract import Availability
from targets.tensorrt.target import BUILDERS
from tests.contract.graphs import Denoiser
from tests.contract.session_contract import SessionContract
from tests.runtimes import pretended_tensorrt

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
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A builder, and a user who trusts `ENGINE` alone."""
    monkeypatch.setattr(tensorrt, "version_here", lambda builder: "1.2.3")
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "the user's cache"))
    monkeypatch.delenv(trusted_engines.TRUST, raising=False)
    monkeypatch.setattr(trusted_engines, "_trusted", {hashlib.sha256(ENGINE).hexdigest()})


def gpus(monkeypatch: pytest.MonkeyPatch, found: list[tuple[str, str]]) -> None:
    monkeypatch.setattr(tensorrt, "_gpus", lambda: found)


class TestPretended(SessionContract):
    """All that a session does but for the GPU: ONNX Runtime on the CPU plays TensorRT."""

    target = "tensorrt"
    vendor = BUILDERS["rtx"].module
    device = "cuda"
    on_host = False
    further = frozenset({RunsCode})

    @pytest.fixture(autouse=True)
    def pretended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch = pytest.importorskip("torch")
        monkeypatch.setitem(sys.modules, self.vendor, pretended_tensorrt)
        monkeypatch.setattr("targets.tensorrt.target.run", pretended_tensorrt.build)
        monkeypatch.setattr("targets.tensorrt.target.installed", lambda *modules: Availability(True))
        monkeypatch.setattr(tensorrt, "_device", lambda name: torch.device("cpu"))
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "Stream", pretended_tensorrt.Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", pretended_tensorrt.Stream)
        gpus(monkeypatch, GPU)

    def test_lacks_nothing_where_its_device_is(self, factory: SessionFactory) -> None:
        assert factory.lacks(built()) == ""

    def test_empty_arrays(self, tmp_path: Path) -> None:
        """Profiles begin at 1: an empty tensor is refused with what the engine is for."""
        session = self.open(self.write(Denoiser().model(), tmp_path))
        with pytest.raises(
            LatentcError, match=r"not built for 'sample' of \[0, 3, 64\] \(it is for: \[1, 1, 64\]"
        ):
            session.run(Denoiser().inputs(0, 3))

    def test_links_are_refused(self, factory: SessionFactory, tmp_path: Path) -> None:
        pytest.skip("an engine holds its weights; see test_a_link_is_refused")

    def test_without_the_vendors_package(
        self, factory: SessionFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = self.write(Denoiser().model(), tmp_path)
        monkeypatch.setattr(tensorrt, "version_here", lambda builder: "")
        assert factory.devices() == ()
        with pytest.raises(LatentcError, match=r"needs TensorRT-RTX 1\.2\.3, which built it; here is: none"):
            factory.open(file, "cuda", "fp32", None, self.built[file])

    def test_engines_of_a_device_compute_in_one_block_that_goes_with_the_last(self, tmp_path: Path) -> None:
        file = self.write(Denoiser().model(), tmp_path)
        first, second = self.open(file), self.open(file)
        small, large = Denoiser().inputs(1, 1), Denoiser().inputs(5, 17)
        first.run(small)
        block = scratch("cpu")
        address, size = block.at_least(0)
        second.run(small)
        assert block.at_least(0) == (address, size)
        second.run(large)
        first.run(small)  # in a part of what the other has needed
        assert block.at_least(0)[1] > size
        first.close(), second.close()
        kept = weakref.ref(block)
        del block
        gc.collect()
        assert kept() is None

    def test_engines_compute_one_at_a_time(self, tmp_path: Path) -> None:
        session = self.open(self.write(Denoiser().model(), tmp_path))
        inputs = Denoiser().inputs(1, 1)
        block = scratch("cpu")
        with ThreadPoolExecutor(1) as pool, block.lock:
            running = pool.submit(session.run, inputs)
            with pytest.raises(Late):
                running.result(timeout=0.2)
            block.lock.release()
            assert running.result(timeout=60).keys() == session.outputs.keys()
            block.lock.acquire()

    def test_threads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.skip("a GPU has no threads of ours")


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


@pytest.mark.parametrize("compatible", [False, True])
def test_an_engine_of_a_stranger_is_not_loaded(
    compatible: bool, monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path
) -> None:
    """Whatever the manifest says, host code too."""
    vendor = opened(monkeypatch, engine, Vendor())
    trusted_engines._trusted.clear()
    stranger = built(version_compatible=compatible)
    with pytest.raises(LatentcError, match=r"engines are code.*not built by you") as caught:
        SESSION.open(engine, "auto", "fp16", None, stranger)
    assert "--trust-engines" in caught.value.hint
    assert vendor.calls == []
    (tmp_path / "the user's cache" / "engines").mkdir(parents=True)
    (tmp_path / "the user's cache" / "engines" / ("0" * 64)).touch()  # another engine
    with pytest.raises(LatentcError, match="engines are code"):
        SESSION.open(engine, "auto", "fp16", None, stranger)
    monkeypatch.setenv(trusted_engines.TRUST, "1")
    SESSION.open(engine, "auto", "fp16", None, stranger)
    assert vendor.calls[0] == f"engine, host code {compatible}"


def test_an_engine_that_was_built_here_is_known_by_its_digest(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path
) -> None:
    opened(monkeypatch, engine, Vendor())
    trusted_engines._trusted.clear()
    trusted_engines.record_trusted(hashlib.sha256(ENGINE).hexdigest())
    trusted_engines._trusted.clear()  # another process, later
    SESSION.open(engine, "auto", "fp16", None, built())
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "another user's"))
    with pytest.raises(LatentcError, match="engines are code"):
        SESSION.open(engine, "auto", "fp16", None, built())


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


@pytest.mark.parametrize(
    ("version", "opens"),
    [("1.2.3", True), ("1.2.2", True), ("1.1.9", True), ("1.2.4", False), ("0.9.0", False), ("2.0.0", False)],
)
def test_version_compatible_engines_open_in_newer_versions(
    version: str, opens: bool, monkeypatch: pytest.MonkeyPatch, engine: Path
) -> None:
    gpus(monkeypatch, [])
    told = built(version=version, version_compatible=True)
    expected = "needs an NVIDIA GPU" if opens else f"needs TensorRT-RTX {version}, which built it"
    with pytest.raises(LatentcError, match=expected):
        SESSION.open(engine, "auto", "fp16", None, told)


class Vendor:
    """What a session calls of TensorRT, written down in order."""

    TensorIOMode = SimpleNamespace(INPUT=0)
    TensorLocation = SimpleNamespace(HOST=1)
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="our")

    def __init__(self, refits: bool = True) -> None:
        self.calls: list[str] = []
        engine = SimpleNamespace(num_io_tensors=0)
        engine.get_weight_streaming_automatic_budget = lambda: 7
        engine.create_execution_context = lambda memory: self.calls.append(
            f"context, {memory} memory, budget {getattr(engine, 'weight_streaming_budget_v2', None)}"
        )
        runtime = SimpleNamespace(engine_host_code_allowed=False)

        def deserialize(data: bytes) -> SimpleNamespace:
            self.calls.append(f"engine, host code {runtime.engine_host_code_allowed}")
            return engine

        def refit_from_file(name: str) -> bool:
            self.calls.append(f"weights of {Path(name).name}")
            return refits

        runtime.deserialize_cuda_engine = deserialize
        self.Runtime = lambda logger: runtime
        self.Refitter = lambda of, logger: SimpleNamespace(refit_cuda_engine=lambda: refits)
        self.OnnxParserRefitter = lambda refitter, logger: SimpleNamespace(refit_from_file=refit_from_file)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ({}, ["engine, host code False", "context, our memory, budget None"]),
        (
            {"strip": True},
            ["engine, host code False", "weights of model.onnx", "context, our memory, budget None"],
        ),
        ({"weight_streaming": True}, ["engine, host code False", "context, our memory, budget 7"]),
        ({"version_compatible": True}, ["engine, host code True", "context, our memory, budget None"]),
    ],
)
def test_how_each_kind_of_engine_is_opened(
    flag: dict[str, object], expected: list[str], monkeypatch: pytest.MonkeyPatch, engine: Path
) -> None:
    vendor = opened(monkeypatch, engine, Vendor())
    SESSION.open(engine, "auto", "fp16", None, built(**flag))
    assert vendor.calls == expected


def test_weights_that_do_not_fit_a_stripped_engine(monkeypatch: pytest.MonkeyPatch, engine: Path) -> None:
    opened(monkeypatch, engine, Vendor(refits=False))
    with pytest.raises(LatentcError, match=r"weights of model\.onnx do not fit the engine"):
        SESSION.open(engine, "auto", "fp16", None, built(strip=True))


def opened(monkeypatch: pytest.MonkeyPatch, engine: Path, vendor: Vendor) -> Vendor:
    """A machine with `vendor` and a GPU, and the ONNX file beside the engine."""
    torch = pytest.importorskip("torch")
    gpus(monkeypatch, GPU)
    monkeypatch.setitem(sys.modules, BUILDERS["rtx"].module, vendor)  # type: ignore[arg-type]
    monkeypatch.setattr(tensorrt, "error_logger", lambda trt, said: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    write_onnx(Denoiser().model(), engine.with_name("model.onnx"), silent, "")
    return vendor


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
