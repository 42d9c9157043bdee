"""The built-in model, compiled, benched against itself and against PyTorch, in processes of their own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from bench.bench_request import BenchRequest, bench
from bench.reference.shape_scenes import split
from compiler.build import compile
from compiler.compile_request import CompileRequest
from tests.strangers import strangers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_checker")]

PROMPTS = tuple(caption.text for caption in split()[1][:2])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "out"
    compile(CompileRequest(model="shapes", out=out, target="onnxruntime", batch=DimRange(min=1, max=1)))
    return out


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has files that are called as our modules: no worker may run them."""
    monkeypatch.chdir(strangers(tmp_path / "here"))


def wanted(artifact: Path, **changes: object) -> BenchRequest:
    given = {"prompts": PROMPTS, "steps": 2, "seeds": 1, "guidance": 3.0, "threads": 1, **changes}
    return BenchRequest(artifacts=(str(artifact),), **given)  # type: ignore[arg-type]


def test_an_artifact_against_itself_draws_equal_pictures(artifact: Path) -> None:
    outcome = bench(wanted(artifact, reference=str(artifact)), [])
    reference, own = outcome.bench.variants
    assert outcome.bench.reference == reference.name == "out (reference)"
    assert own.quality is not None and own.speed is not None
    assert own.quality.psnr.value == math.inf and own.quality.equal.value == 1.0
    assert own.quality.latent_curve == (0.0, 0.0)
    assert own.speed.step_ratio is not None and own.speed.step_ratio.value is not None
    assert own.cold is not None and own.warm is not None and own.threads == 1
    assert own.cold.memory.total > 10 << 20 and own.cold.load_s > 0


def test_it_is_near_to_pytorch(artifact: Path) -> None:
    outcome = bench(wanted(artifact, reference="shapes"), [])
    torch, own = outcome.bench.variants
    assert (torch.kind, torch.threads) == ("pytorch", 1)
    assert own.quality is not None and torch.speed is not None and own.speed is not None
    assert own.quality.psnr.worst is not None and own.quality.psnr.worst > 50
    assert set(own.speed.components) == set(torch.speed.components)


def test_a_device_that_is_not_there(artifact: Path) -> None:
    with pytest.raises(UsageError, match="out: target 'onnxruntime' has no device 'gpu.9' here"):
        bench(wanted(artifact, device="gpu.9"), [])


def test_an_artifact_that_was_tampered_with_is_not_run(artifact: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    file = copy / "unet" / "config.json"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(LatentcError, match="copy: .*is not what was compiled: 'unet/config.json'"):
        bench(wanted(copy), [])
