from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import cast

import pytest

from artifacts import trusted_engines
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from artifacts.progress import Event, silent
from compiler.build import compile
from compiler.compile_request import CompileRequest
from compiler.passes.lower_precision import lower_precision
from compiler.quantize import int8_ranges
from targets.graph.onnx_files import write_onnx
from targets.target_contract import Context
from targets.tensorrt import engine_build as tensorrt_build
from targets.tensorrt import target as tensorrt
from targets.tensorrt.target import BUILDERS, FLAGS, TARGET, TensorRtOptions, choose, make_profile
from tests.compiler.passes.graphs import evaluate
from tests.compiler.quantize.made import case, quantized
from tests.contract.graphs import Denoiser
from tests.contract.target_contract import DIMS, TargetContract

VENDOR = BUILDERS["rtx"].module
needs_builder = pytest.mark.skipif(
    importlib.util.find_spec(VENDOR) is None, reason=f"the package '{VENDOR}' is not installed"
)
GPUS = ("sm86", "sm89", "sm120")


@needs_builder
@pytest.mark.slow
class TestTensorRt(TargetContract):
    name = "tensorrt"
    vendor = VENDOR

    def stored(self, folder: Path) -> int:
        """An engine holds them as it likes; the ONNX file beside it is what is counted."""
        return sum(p.stat().st_size for p in folder.glob("model.onnx*"))


# --- which builder, which GPUs -------------------------------------------------------------------


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if both builders were installed."""
    monkeypatch.setattr(tensorrt, "installed", lambda *modules: tensorrt.Availability(True))


@pytest.fixture
def neither(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = tensorrt.Availability(False, f"the package '{VENDOR}' is not installed", "pip install x")
    monkeypatch.setattr(tensorrt, "installed", lambda *modules: answer)


@pytest.mark.parametrize(
    ("builder", "gpu", "expected"),
    [
        ("auto", "", ("rtx", GPUS)),
        ("auto", "sm89, SM120,sm89", ("rtx", ("sm89", "sm120"))),
        ("rtx", "current", ("rtx", ("current",))),
        ("tensorrt", "", ("tensorrt", ("current",))),
    ],
)
def test_builders_and_gpus(both: None, builder: str, gpu: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert choose(builder, gpu) == expected


@pytest.mark.parametrize(
    ("builder", "gpu", "message"),
    [
        (
            "auto",
            "sm90",
            r"TensorRT-RTX or TensorRT does not build for 'sm90' \(it does for: sm75, .*current\)",
        ),
        ("tensorrt", "sm89", r"^TensorRT does not build for 'sm89' \(it does for: current\)"),
        ("rtx", "current,sm89", r"'current' stands alone"),
        ("polygraphy", "", r"no builder 'polygraphy' \(there are: auto, rtx, tensorrt\)"),
    ],
)
def test_what_no_builder_does(both: None, builder: str, gpu: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(builder, gpu)


def test_without_a_builder(neither: None) -> None:
    with pytest.raises(LatentcError, match=r'not installed.\nRun: pip install "latentc\[tensorrt\]"'):
        choose("auto", "")
    answer = TARGET.available()
    assert not answer.ok
    assert VENDOR in answer.reason
    assert answer.install == 'pip install "latentc[tensorrt]"'


# --- profiles ------------------------------------------------------------------------------------


def test_profiles_are_the_declared_ranges() -> None:
    found = make_profile(Denoiser().model(), DIMS, {"tokens": 4})
    assert found == {
        "sample": ((1, 1, 64), (3, 4, 64), (5, 17, 64)),
        "flag": ((1,), (3,), (5,)),
    }


@pytest.mark.parametrize(
    ("dims", "tuned", "message"),
    [
        (DIMS, {"tokens": 18}, r"--profile tokens=18 is outside the declared 1..17"),
        (DIMS, {"width": 1}, r"no symbolic dimension 'width' \(it has: batch, tokens\)"),
        (
            {"batch": DimRange(min=1, max=2)},
            {},
            r"range of the dimension 'tokens' of 'sample'; none is declared",
        ),
    ],
)
def test_wrong_profiles(dims: dict[str, DimRange], tuned: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_profile(Denoiser().model(), dims, tuned)


# --- the process that builds ---------------------------------------------------------------------


@needs_builder
def test_a_graph_that_the_parser_refuses(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff")
    with pytest.raises(LatentcError, match=r"unet: building failed: the ONNX parser refused the graph"):
        tensorrt_build.run(job(tmp_path), silent, "unet: building")


def test_a_builder_that_is_not_there(tmp_path: Path) -> None:
    wanted = job(tmp_path).model_copy(update={"module": "no_such_builder"})
    with pytest.raises(LatentcError, match=r"building failed: ModuleNotFoundError: .*no_such_builder"):
        tensorrt_build.run(wanted, silent, "unet: building")


# What TensorRT-RTX 1.7 says of each option where there is no NVIDIA driver; None: it takes it.
REFUSED = {
    "strip": r"unet: building with --strip failed: .*CUDA_SUCCESS",
    "version_compatible": r"unet: building with --version-compatible failed: .*libnvinfer_lean",
    "weight_streaming": None,
}


@needs_builder
@pytest.mark.slow
@pytest.mark.parametrize("option", FLAGS)
def test_what_the_builder_refuses_it_says_and_nothing_is_left_out(option: str, tmp_path: Path) -> None:
    write_onnx(Denoiser("fp16").model(), tmp_path / "model.onnx", silent, "")
    profile = make_profile(Denoiser().model(), DIMS, {})
    wanted = job(tmp_path).model_copy(update={"flags": {option: FLAGS[option]}, "profile": profile})
    if has_driver() or REFUSED[option] is None:
        assert tensorrt_build.run(wanted, silent, "unet: building")[option] is True
        return
    with pytest.raises(LatentcError, match=str(REFUSED[option])) as caught:
        tensorrt_build.run(wanted, silent, "unet: building")
    assert caught.value.hint.startswith(f"Leave out --{option.replace('_', '-')}, or build where")
    assert not (tmp_path / "model.engine").exists()


def test_options_become_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, both: None) -> None:
    jobs: list[tensorrt_build.EngineJob] = []
    monkeypatch.setattr(tensorrt, "run", lambda job, progress, task: jobs.append(job) or {"sha256": "0" * 64})
    monkeypatch.setattr(trusted_engines, "record_trusted", lambda sha256: None)
    for name in FLAGS:
        graph = Denoiser("fp16").model()
        TARGET.lower(graph, TensorRtOptions(gpu="sm89", **{name: True}), tmp_path, Context(dims=DIMS))  # type: ignore[arg-type]
    assert [job.flags for job in jobs] == [{name: flags} for name, flags in FLAGS.items()]


@pytest.mark.parametrize(("builder", "kept"), [("rtx", False), ("tensorrt", True)])
def test_timings_are_kept_for_the_builder_that_takes_them(
    builder: str, kept: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, both: None
) -> None:
    jobs: list[tensorrt_build.EngineJob] = []
    monkeypatch.setattr(tensorrt, "run", lambda job, progress, task: jobs.append(job) or {"sha256": "0" * 64})
    monkeypatch.setattr(trusted_engines, "record_trusted", lambda sha256: None)
    context = Context(dims=DIMS, cache=tmp_path / "cache")
    TARGET.lower(Denoiser("fp16").model(), TensorRtOptions(builder=builder), tmp_path, context)
    assert jobs[0].timings == (str(tmp_path / "cache" / "tensorrt") if kept else "")


@needs_builder
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_timings_are_written_and_read_again(tmp_path: Path) -> None:
    """With TensorRT-RTX, whose caches are empty: the calls are the same."""
    write_onnx(Denoiser("fp16").model(), tmp_path / "model.onnx", silent, "")
    wanted = job(tmp_path).model_copy(
        update={"timings": str(tmp_path / "cache"), "profile": make_profile(Denoiser().model(), DIMS, {})}
    )
    file = tmp_path / "cache" / f"{VENDOR}-sm89.timings"
    tensorrt_build.run(wanted, silent, "unet: building")
    first = file.read_bytes()
    assert first
    file.write_bytes(b"of another version")
    tensorrt_build.run(wanted, silent, "unet: building")
    assert file.read_bytes() == first
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def has_driver() -> bool:
    torch = pytest.importorskip("torch")
    return bool(torch.cuda.is_available())


def job(folder: Path) -> tensorrt_build.EngineJob:
    return tensorrt_build.EngineJob(
        module=VENDOR,
        onnx=str(folder / "model.onnx"),
        engine=str(folder / "model.engine"),
        capabilities=("sm89",),
        profile={},
    )


@needs_builder
@pytest.mark.slow
def test_a_build_is_cancelled_by_its_progress(tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def stop(event: Event) -> None:
        if "engine" in event.task and event.completed:
            raise Cancelled

    with pytest.raises(Cancelled):
        TARGET.lower(Denoiser("fp16").model(), TensorRtOptions(gpu="sm89"), tmp_path, Context(stop, DIMS))
    assert not (tmp_path / "model.engine").exists()


# --- quantized weights ----------------------------------------------------------------------------


@needs_builder
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int4", "int8-activations"])
@pytest.mark.parametrize("kind", ["matmul", "gemm", "conv"])
def test_the_network_holds_what_was_quantized(scheme: str, kind: str, tmp_path: Path) -> None:
    made = case(kind, tmp_path)
    some = int8_ranges.sites(made.model, lambda key, layout: True)
    taps, *_ = evaluate(int8_ranges.tap(made.model, some), [made.x])
    quantized(made, tmp_path, scheme, **TARGET.requirements.scheme_options[scheme])
    if scheme == "int8-activations":
        int8_ranges.quantize(made.model, some, int8_ranges.first_ranges(taps[None], True), True)
    model, _ = lower_precision(made.model, "fp16", TARGET.requirements.typed)
    (tmp_path / "out").mkdir()
    lowered = TARGET.lower(model, TensorRtOptions(gpu="sm89"), tmp_path / "out", Context(dims=DIMS))
    layers = cast(dict[str, dict[str, int]], lowered.built["layers"])
    assert ("int4" if scheme == "int4" else "int8") in layers["constant"]
    assert layers.get("quantize", {}) == ({"int8": 1} if scheme == "int8-activations" else {})
    assert layers["dequantize"] == {"float16": 2 if scheme == "int8-activations" else 1}
    assert layers["convolution" if kind == "conv" else "matrix_multiply"] == {"float16": 1}


@pytest.mark.slow
def test_nf4_is_refused_by_name(tmp_path: Path) -> None:
    request = CompileRequest("shapes", tmp_path / "out", "tensorrt", quantize="unet=nf4")
    with pytest.raises(
        UsageError, match=r"does not take nf4 weights \(it takes: int4, int8, int8-act"
    ) as caught:
        compile(request)
    assert caught.value.hint == "Use --quantize int4"


@pytest.mark.slow
def test_zero_points_are_refused_by_name(tmp_path: Path) -> None:
    request = CompileRequest("shapes", tmp_path / "out", "tensorrt", quantize="unet=int4:asymmetric")
    with pytest.raises(UsageError, match=r"'tensorrt' does not take int4 with asymmetric=True"):
        compile(request)
