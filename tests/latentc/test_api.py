"""The functions behind the commands: what their keywords become, and what is wrong with a request."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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


MISTYPED: list[tuple[str, dict[str, Any]]] = [
    ("compile", {"model": 5}),
    ("compile", {"out": 5}),
    ("compile", {"target": 5}),
    ("compile", {"quantize": 5}),
    ("compile", {"rewrites": 5}),
    ("compile", {"task": 5}),
    ("compile", {"task": ["inpaint", 5]}),
    ("compile", {"pictures": "x"}),
    ("compile", {"batch": True}),
    ("compile", {"size": (64.5, 64)}),
    ("compile", {"arguments": 5}),
    ("compile", {"arguments": {"x": {1, 2}}}),
    ("compile", {"options": ["fix"]}),
    ("compile", {"loras": 5}),
    ("compile", {"components": {"vae": 5}}),
    ("compile", {"force": "no"}),
    ("compile", {"progress": 5}),
    ("compile", {"on_plan": 5}),
    ("auto", {"min_psnr": "40"}),
    ("rebuild", {"options": 5}),
    ("rebuild", {"artifact": 5}),
    ("tune", {"artifact": 5}),
    ("tune", {"steps": "4"}),
    ("bench", {"artifacts": 5}),
    ("bench", {"seeds": 1.5}),
    ("verify", {"artifact": None}),
    ("inspect", {"artifact_or_model": 5}),
    ("push", {"name": 5}),
    ("bom", {"artifact": 5}),
    ("sign", {"key": 5}),
    ("graph_snapshot", {"model": 5}),
    ("graph_check", {"allow": 5}),
    ("load", {"path": None}),
    ("load", {"device": 5}),
    ("load", {"device": {"unet": 5}}),
    ("load", {"memory": 1.5}),
    ("load", {"strict": "no"}),
]

GIVEN: dict[str, dict[str, Any]] = {
    "compile": {"model": "shapes", "out": "out", "target": "openvino"},
    "auto": {"model": "shapes", "out": "out", "target": "openvino"},
    "rebuild": {"artifact": "a", "out": "out"},
    "tune": {"artifact": "a"},
    "bench": {"artifacts": "a"},
    "push": {"artifact": "a", "name": "a"},
    "sign": {"artifact": "a", "key": "a"},
    "graph_check": {"model": "shapes", "golden": "a"},
    "load": {"path": "a"},
}


@pytest.mark.parametrize(("function", "keywords"), MISTYPED, ids=str)
def test_values_of_other_types(requests: list[Any], function: str, keywords: dict[str, Any]) -> None:
    (name,) = keywords
    with pytest.raises(latentc.UsageError, match=f"'({name}|x)' (of arguments )?is .*; found "):
        getattr(latentc, function)(**{**GIVEN.get(function, {}), **keywords})
    assert requests == []


def test_every_function_looks_at_the_types_of_its_arguments() -> None:
    functions = [name for name in latentc.__all__ if inspect.isfunction(getattr(latentc, name))]
    assert {"compile", "load", "tune"} <= set(functions)
    for name in set(functions) - {"targets"}:
        parameters = inspect.signature(getattr(latentc, name)).parameters
        first = next(iter(parameters))
        with pytest.raises(latentc.UsageError, match=f"'{first}' is "):
            getattr(latentc, name)(**{**GIVEN.get(name, {}), first: 5j})


def test_fields_of_other_types(requests: list[Any]) -> None:
    wrong: Any = 5
    with pytest.raises(latentc.UsageError, match="'rewrites' is a text; found 5"):
        latentc.compile(latentc.CompileRequest("shapes", Path("out"), "openvino", rewrites=wrong))
    with pytest.raises(latentc.UsageError, match="'options' is a dict"):
        latentc.rebuild(latentc.RebuildRequest(Path("a"), Path("b"), wrong))
    assert requests == []


def test_arguments_are_what_json_holds(requests: list[Any]) -> None:
    given = {
        "clip_skip": 2,
        "eta": 0.5,
        "sizes": [64, 64],
        "on": True,
        "none": None,
        "word": "text",
        "n": "2",
    }
    latentc.compile("shapes", "out", target="openvino", arguments=given, pictures=np.int64(3))
    request, *_ = requests[0]
    assert request.arguments == {
        "clip_skip": "2",
        "eta": "0.5",
        "sizes": "[64, 64]",
        "on": "true",
        "none": "null",
        "word": "text",
        "n": "2",
    }
    assert type(request.pictures) is int


def test_loras_of_other_types(tmp_path: Path) -> None:
    pipeline = object.__new__(latentc.Pipeline)
    for wrong in (5, [5], {"a": "b"}):
        with pytest.raises(latentc.UsageError, match="'loras' is "):
            pipeline.set_loras(wrong)  # type: ignore[arg-type]


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
