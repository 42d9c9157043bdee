"""An artifact that is made again from its own graphs: what stays, what is new, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import Evidence
from artifacts.hashing import file_record
from artifacts.manifest import MANIFEST_NAME
from artifacts.progress import silent
from artifacts.verification import Artifact, open_artifact
from compiler import rebuild as module
from compiler.rebuild import RebuildRequest, rebuild
from runtimes.sessions.directml import SESSION
from targets.directml.target import TARGET
from targets.target_contract import Context
from tests.compiler.rebuilding import DIMS, compiled
from tests.contract.graphs import Denoiser


@dataclass(frozen=True)
class Options:
    """What a made-up vendor takes."""

    gpu: str = "sm1"
    tuned: bool = False
    fix: str = ""


def as_directml(**changes: Any) -> SimpleNamespace:
    """A target like DirectML's, with `changes`."""
    same = ("name", "requirements", "options", "rebuild", "available", "toolchain", "lower")
    return SimpleNamespace(**{name: getattr(TARGET, name) for name in same} | changes)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    compiled(tmp_path / "artifact")
    return open_artifact(tmp_path / "artifact")


def test_the_same_options_make_the_same_files(artifact: Artifact, tmp_path: Path) -> None:
    again = rebuild(RebuildRequest(artifact.root, tmp_path / "out"))
    assert open_artifact(again.root).manifest == again.manifest
    before, after = (
        {f.path: f.sha256 for f in a.manifest.files if not f.path.endswith(".onnx")}
        for a in (artifact, again)
    )
    assert before == after
    assert {f.path for f in again.manifest.files} == {f.path for f in artifact.manifest.files}
    session = SESSION.open(again.root / again.manifest.graphs[0].model_file, "cpu", "fp16", None)
    inputs = Denoiser("fp16").inputs(2, 3)
    assert session.run(inputs)["out_sample"] == pytest.approx(
        Denoiser("fp16").expected(inputs)["out_sample"], abs=1e-3
    )


def test_evidence_is_said_to_be_the_earlier_files(artifact: Artifact, tmp_path: Path) -> None:
    once = rebuild(RebuildRequest(artifact.root, tmp_path / "once")).manifest
    twice = rebuild(RebuildRequest(tmp_path / "once", tmp_path / "twice")).manifest
    reason = "built again without the model; before: relative error 1.2e-03 in fp32"
    for manifest in (once, twice):
        assert manifest.graphs[0].evidence == (Evidence(check="not measured", reason=reason),)
        (pictures,) = manifest.pictures
        assert pictures.reason == "built again without the model; before: PSNR 41.2 dB in fp32"
    kept = ("source", "pipelines", "target", "precision", "sizes", "components", "arguments")
    assert all(getattr(twice, name) == getattr(artifact.manifest, name) for name in kept)
    assert twice.toolchain.items() >= TARGET.toolchain().items()
    assert twice.created > artifact.manifest.created
    assert (once.parent, twice.parent) == (artifact.manifest.digest, once.digest)


def test_a_type_that_failed_is_not_called_measured(artifact: Artifact) -> None:
    failed = Evidence(
        compute="fp16", device="cpu", check="quick", error={"out": 0.2}, tolerance=0.01, broken="out 0.2"
    )
    graph = artifact.manifest.graphs[0].model_copy(update={"evidence": (failed,)})
    (again,) = module._earlier(graph)
    assert again.reason == "built again without the model; before: fails in fp16: out 0.2" and not again.error


def test_it_may_take_the_artifacts_own_place(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match=r"exists\.\nReplace it with --force"):
        rebuild(RebuildRequest(artifact.root, artifact.root))
    again = rebuild(RebuildRequest(artifact.root, artifact.root, force=True))
    assert again.manifest.created > artifact.manifest.created


def test_other_options_and_earlier_ones(artifact: Artifact, tmp_path: Path, monkeypatch: Any) -> None:
    """An option that is given takes the place of the artifact's; what the graph holds already stays."""
    seen: list[tuple[Any, Any]] = []

    def lower(graph: Any, options: Any, out: Path, context: Context) -> Any:
        seen.append((options, context.dims))
        return TARGET.lower(graph, TARGET.options(), out, context)

    vendor = as_directml(options=Options, lower=lower)
    compiled(tmp_path / "vendor", options={"gpu": "sm2", "tuned": True, "fix": "tokens=3"})
    monkeypatch.setattr(module.targets, "get", lambda name: vendor)
    again = rebuild(RebuildRequest(tmp_path / "vendor", tmp_path / "out", {"gpu": "sm3"})).manifest
    assert seen == [(Options("sm3", True, ""), DIMS)]
    assert again.options == {"gpu": "sm3", "tuned": True, "fix": "tokens=3"}
    with pytest.raises(UsageError, match="--fix is in the artifact's graphs already"):
        rebuild(RebuildRequest(tmp_path / "vendor", tmp_path / "other", {"fix": "tokens=3"}))
    assert not (tmp_path / "other").exists()


# --- what is refused -----------------------------------------------------------------------------


def test_a_target_that_keeps_no_graph(tmp_path: Path) -> None:
    compiled(tmp_path / "a", target="openvino")
    with pytest.raises(
        LatentcError, match=r"'openvino' cannot be made again.*those of directml, tensorrt do"
    ):
        rebuild(RebuildRequest(tmp_path / "a", tmp_path / "out"))


def test_an_artifact_without_its_graph(tmp_path: Path) -> None:
    root = tmp_path / "a"
    manifest = compiled(root)
    (root / "unet/model.onnx").unlink()
    graph = manifest.graphs[0].model_copy(update={"model_file": "unet/directml-batch1-tokens3.onnx"})
    files = tuple(f for f in manifest.files if f.path != "unet/model.onnx")
    changed = manifest.model_copy(update={"files": files, "graphs": (graph,)})
    (root / MANIFEST_NAME).write_text(changed.model_dump_json())
    with pytest.raises(LatentcError, match=r"has no unet/model\.onnx, from which"):
        rebuild(RebuildRequest(root, tmp_path / "out"))


@pytest.mark.parametrize(
    "name", ["unet/model.onnx", "unet/model.onnx_data", "scheduler/scheduler_config.json"]
)
def test_a_file_that_was_changed(name: str, artifact: Artifact, tmp_path: Path) -> None:
    data = bytearray((artifact.root / name).read_bytes())
    data[-3] ^= 1
    (artifact.root / name).write_bytes(data)
    with pytest.raises(LatentcError, match=rf"is not what was compiled: '{name}': has SHA-256"):
        rebuild(RebuildRequest(artifact.root, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_weights_elsewhere_are_refused(tmp_path: Path) -> None:
    """Also where whoever changed the graph made the manifest fit."""
    import onnx

    root = tmp_path / "a"
    manifest = compiled(root)
    stored = onnx.load(str(root / "unet/model.onnx"), load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../../secret" if entry.key == "location" else entry.value
    (root / "unet/model.onnx").write_bytes(stored.SerializeToString())
    files = tuple(file_record(root, root / f.path, silent) for f in manifest.files)
    (root / MANIFEST_NAME).write_text(manifest.model_copy(update={"files": files}).model_dump_json())
    with pytest.raises(LatentcError, match="only a plain name of a file beside it is allowed"):
        rebuild(RebuildRequest(root, tmp_path / "out"))


def test_a_build_that_fails_leaves_no_artifact(artifact: Artifact, tmp_path: Path, monkeypatch: Any) -> None:
    def lower(*args: Any) -> Any:
        raise LatentcError("the builder refused it")

    vendor = as_directml(lower=lower)
    monkeypatch.setattr(module.targets, "get", lambda name: vendor)
    with pytest.raises(LatentcError, match="refused it"):
        rebuild(RebuildRequest(artifact.root, tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


@pytest.mark.parametrize("name", ["unet/model.onnx_data", "scheduler/scheduler_config.json"])
def test_a_file_that_changes_meanwhile_is_an_error(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def lower(*given: Any) -> Any:
        written = TARGET.lower(*given)
        (artifact.root / name).write_bytes(b"another")
        return written

    monkeypatch.setattr(module.targets, "get", lambda target: as_directml(lower=lower))
    with pytest.raises(LatentcError, match=f"has changed since it was loaded: '{name}'"):
        rebuild(RebuildRequest(artifact.root, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
