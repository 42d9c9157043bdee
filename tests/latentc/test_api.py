"""The functions behind the commands: what their keywords become, and what is wrong with a request."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import latentc
from artifacts.verification import open_artifact
from compiler import auto, build, rebuild
from latentc import DimRange, SizeRange
from tests.latentc.artifacts_made import made


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The requests that reached the compiler."""
    seen: list[Any] = []
    made(tmp_path / "made")

    def work(request: Any, *others: Any) -> Any:
        seen.append((request, *others))
        return open_artifact(tmp_path / "made")

    for module in (build, auto):
        monkeypatch.setattr(module, "compile", work)
    monkeypatch.setattr(rebuild, "rebuild", work)
    return seen


def test_keywords_become_the_request(requests: list[Any]) -> None:
    artifact = latentc.compile("shapes", "out", target="openvino")
    assert isinstance(artifact, latentc.Artifact)
    latentc.compile(
        Path("folder") / "model",
        Path("out"),
        target="tensorrt",
        task="inpaint",
        size=(128, 64),
        batch="1..4",
        quantize="int8",
        calibration=["a cat"],
        options={"gpu": "sm89", "fix": True},
        rewrites=["split-linear", "pad-heads"],
        force=True,
    )
    plain, full = (request for request, *_ in requests)
    assert plain == latentc.CompileRequest("shapes", Path("out"), "openvino")
    assert full == latentc.CompileRequest(
        str(Path("folder") / "model"),
        Path("out"),
        "tensorrt",
        tasks=("inpaint",),
        size=SizeRange(width=DimRange(min=128, max=128), height=DimRange(min=64, max=64)),
        batch=DimRange(min=1, max=4),
        quantize="int8",
        calibration=("a cat",),
        options={"gpu": "sm89", "fix": "True"},
        rewrites="split-linear,pad-heads",
        force=True,
    )


@pytest.mark.parametrize("size", [64, "64", "64x64", (64, 64), SizeRange(*[DimRange(min=64, max=64)] * 2)])
def test_sizes(requests: list[Any], size: Any) -> None:
    latentc.compile("shapes", "out", target="openvino", size=size, batch=(2, 3))
    request, *_ = requests[0]
    assert request.size == SizeRange(width=DimRange(min=64, max=64), height=DimRange(min=64, max=64))
    assert request.batch == DimRange(min=2, max=3)


def test_keywords_change_a_request(requests: list[Any]) -> None:
    request = latentc.CompileRequest("shapes", Path("out"), "openvino", precision="bf16", quantize="int4")
    latentc.compile(request)
    latentc.compile(request, "other", quantize="int8")
    assert requests[0][0] == request
    assert requests[1][0] == dataclasses.replace(request, out=Path("other"), quantize="int8")
    again = latentc.RebuildRequest(Path("a"), Path("b"), {"gpu": "sm89"})
    latentc.rebuild(again, options={"gpu": "sm120"})
    latentc.rebuild("a", "b", force=True)
    assert requests[2][0] == latentc.RebuildRequest(Path("a"), Path("b"), {"gpu": "sm120"})
    assert requests[3][0] == latentc.RebuildRequest(Path("a"), Path("b"), force=True)


def test_a_budget(requests: list[Any]) -> None:
    latentc.auto("shapes", "out", target="openvino", min_psnr=40)
    request, budget, *_ = requests[0]
    assert request == latentc.CompileRequest("shapes", Path("out"), "openvino")
    assert budget == auto.Budget(min_psnr=40)


# Fields that a function has under another name, or in another form.
RENAMED = {"tasks": "task", "model": "model", "artifacts": "artifacts", "artifact": "artifact"}


@pytest.mark.parametrize(
    ("function", "request_type"),
    [
        (latentc.compile, latentc.CompileRequest),
        (latentc.rebuild, latentc.RebuildRequest),
        (latentc.bench, latentc.BenchRequest),
    ],
)
def test_every_field_of_a_request_has_a_keyword(function: Any, request_type: Any) -> None:
    keywords = inspect.signature(function).parameters
    fields = {RENAMED.get(field.name, field.name) for field in dataclasses.fields(request_type)}
    assert fields <= set(keywords)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "needs a folder"),
        ({"out": "out"}, "needs a target .*openvino"),
        ({"out": "out", "target": "openvino", "size": "big"}, "'big' is no size"),
        ({"out": "out", "target": "openvino", "size": (0, 64)}, "is no size"),
        ({"out": "out", "target": "openvino", "batch": 0}, "0 is no batch"),
        ({"out": "out", "target": "openvino", "quantize": "auto"}, "for a budget"),
        ({"out": "out", "target": "openvino", "method": "awq"}, "needs quantize"),
        ({"out": "out", "target": "openvino", "calibration": "none.txt"}, "cannot be read"),
        ({"out": "out", "target": "openvino", "calibration": []}, "found none"),
    ],
)
def test_wrong_requests(requests: list[Any], keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(latentc.UsageError, match=message):
        latentc.compile("shapes", **keywords)
    assert requests == []


def test_what_the_compiler_refuses_is_refused(tmp_path: Path) -> None:
    for wrong in ({"target": "none"}, {"target": "openvino", "options": {"depth": 3}}):
        with pytest.raises(latentc.UsageError):
            latentc.compile("shapes", tmp_path / "out", **wrong)
    with pytest.raises(latentc.UsageError, match="one budget"):
        latentc.auto("shapes", tmp_path / "out", target="openvino")
    with pytest.raises(latentc.LatentcError, match="does not exist"):
        latentc.rebuild(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_verify_and_inspect(tmp_path: Path) -> None:
    manifest = made(tmp_path / "out")
    verified = latentc.verify(tmp_path / "out")
    assert verified.ok and verified.manifest == manifest and verified.numerics == {}
    assert [change.package for change in verified.toolchain] == ["click", "no-such-package"]
    assert latentc.inspect(tmp_path / "out") == manifest
    (tmp_path / "out" / "unet" / "config.json").unlink()
    assert [f.path for f in latentc.verify(tmp_path / "out", numerics=True).findings] == ["unet/config.json"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        verified.numerics = {}  # type: ignore[misc]
    with pytest.raises(latentc.LatentcError, match="there is no model 'none'"):
        latentc.inspect("none")


def test_targets() -> None:
    found = {target.name: target for target in latentc.targets()}
    assert found["openvino"].precisions[0] == "fp32"
    assert "gpu" in {option.name for option in found["tensorrt"].options}


def test_a_bench_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.bench_request

    seen: list[Any] = []

    def run(request: Any, command: list[str], progress: Any) -> Any:
        seen.append((request, command))
        return SimpleNamespace(bench=None)

    monkeypatch.setattr(bench.bench_request, "bench", run)
    latentc.bench([Path("a"), "b"], reference="shapes", prompts=["it's a cat"], size="64x32", steps=3)
    ((request, command),) = seen
    assert request == latentc.BenchRequest(
        ("a", "b"), "shapes", prompts=("it's a cat",), size=(64, 32), steps=3
    )
    assert shlex.split(shlex.join(command)) == command
    exec(command[2])  # noqa: S102 (what a user would type)
    assert seen[1] == seen[0]


def test_a_check_says_what_was_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from compiler.snapshot import golden_snapshot
    from compiler.snapshot.diff import Change

    changes = (Change("unet", (), (), "ops", "more"), Change("", (), (), "metadata", "made by"))
    monkeypatch.setattr(golden_snapshot, "check", lambda *args, **options: changes)
    found = latentc.graph_check("models/sd15", tmp_path, allow="metadata")
    assert found.golden == tmp_path / "sd15.graph"
    assert (found.changes, found.allowed, found.ok) == (changes[:1], changes[1:], False)
    assert latentc.graph_check("sd15", tmp_path, allow=["metadata"], update=True).ok
    with pytest.raises(latentc.UsageError, match="'ops' cannot be allowed"):
        latentc.graph_check("sd15", tmp_path, allow="ops")
