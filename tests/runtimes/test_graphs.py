from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import Evidence
from artifacts.manifest import FileRecord, TensorSpec
from artifacts.progress import Event, silent
from runtimes import graphs as module
from runtimes.graphs import Graphs
from runtimes.sessions.session_contract import Device
from tests.runtimes import tiny


class Session:
    """Doubles its inputs; knows only one of the graph's inputs, as if the others had been dropped."""

    def __init__(self) -> None:
        self.inputs = {"sample": TensorSpec(name="sample", dtype="float32", shape=("n",))}
        self.outputs = {"out": TensorSpec(name="out", dtype="float32", shape=("n",))}
        self.closed = 0

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert list(inputs) == ["sample"]
        return {"out": inputs["sample"] * 2}

    def close(self) -> None:
        self.closed += 1


class Factory:
    target = "openvino"
    computes: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.opened: list[tuple[Path, str, str, Path | None]] = []
        self.sessions: list[Session] = []

    def devices(self) -> tuple[Device, ...]:
        return (Device("cpu", "", computes=self.computes),)

    def open(
        self, model_file: Path, device: str, compute: str, cache_dir: Path | None, built: Any
    ) -> Session:
        self.opened.append((model_file, device, compute, cache_dir))
        self.sessions.append(Session())
        return self.sessions[-1]


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Factory:
    made = Factory()
    monkeypatch.setattr(module.session_table, "get", lambda target: made)
    return made


def pool(
    root: Path, cache: Path | None = None, sha: str = "a" * 64, events: list[Event] | None = None
) -> Graphs:
    files = tuple(FileRecord(path=f"{g}/model.fake", sha256=sha, size=1) for g in ("unet", "vae_decoder"))
    manifest = tiny.manifest().model_copy(update={"files": files})
    return Graphs(root, manifest, "cpu", cache, (events if events is not None else []).append)


def test_a_graph_is_opened_once_when_it_is_needed(factory: Factory, tmp_path: Path) -> None:
    events: list[Event] = []
    graphs = pool(tmp_path, events=events)
    assert factory.opened == []
    given: Any = {"sample": np.ones(2, np.float32), "dropped": np.ones(1, np.float32)}
    for _ in range(2):
        assert graphs.run("unet", given)["out"].tolist() == [2, 2]
    assert factory.opened == [(tmp_path / "unet/model.fake", "cpu", "fp32", None)]
    assert [e.task for e in events] == ["opening unet"] * 2
    graphs.open_all()
    assert len(factory.opened) == 4


def test_closing_frees_all_once(factory: Factory, tmp_path: Path) -> None:
    graphs = pool(tmp_path)
    graphs.open_all()
    graphs.close()
    graphs.close()
    assert [s.closed for s in factory.sessions] == [1] * 4
    with pytest.raises(LatentcError, match="the pipeline is closed"):
        graphs.run("unet", {})


def test_a_graph_that_is_not_there(factory: Factory, tmp_path: Path) -> None:
    with pytest.raises(
        LatentcError, match=r"no graph 'prior' \(it has: text_encoder, unet, vae_decoder, vae_enc"
    ):
        pool(tmp_path).open("prior")


def test_the_cache_belongs_to_the_graphs_content(factory: Factory, tmp_path: Path) -> None:
    for sha in ("a" * 64, "b" * 64, "a" * 64):
        pool(tmp_path, tmp_path / "cache", sha).open("unet")
    pool(tmp_path, tmp_path / "cache").open("vae_decoder")
    folders = [opened[3] for opened in factory.opened]
    assert folders[0] == folders[2]
    assert len(set(folders)) == 3
    assert all(f is not None and f.is_dir() and f.parent == tmp_path / "cache" / "openvino" for f in folders)


def test_graphs_are_opened_in_what_was_asked_for_or_measured(factory: Factory, tmp_path: Path) -> None:
    factory.computes = ("bf16", "fp32")
    failed = Evidence(compute="bf16", device="cpu", check="quick", broken="out not finite")
    holds = Evidence(compute="bf16", device="cpu", check="quick", error={"out": 0.01})
    manifest = tiny.manifest()
    evidence = {"unet": (failed,), "vae_decoder": (holds,)}
    stored = tuple(
        g.model_copy(update={"precision": "fp16", "evidence": evidence.get(g.folder, g.evidence)})
        for g in manifest.graphs
    )
    manifest = manifest.model_copy(update={"graphs": stored})

    def opened(compute: str) -> Graphs:
        graphs = Graphs(tmp_path, manifest, "auto", tmp_path / "cache", silent, compute)
        graphs.open("unet")
        return graphs

    usual = opened("auto")
    assert usual.computes == {
        "text_encoder": "bf16", "unet": "fp32", "vae_decoder": "bf16", "vae_encoder": "bf16"
    }  # fmt: skip
    assert usual.note.startswith(
        "text_encoder, vae_encoder are computed in bf16 on cpu, which was not measured"
    )
    assert "unet" not in usual.note
    assert opened("fp32").note == ""
    assert "unet is computed in bf16, which was measured to fail: out not finite." in opened("bf16").note
    assert [each[2] for each in factory.opened] == ["fp32", "fp32", "bf16"]
    folders = [each[3] for each in factory.opened]
    assert folders[0] == folders[1] != folders[2], "blobs of two types are kept apart"
    with pytest.raises(UsageError, match="cannot be computed in fp16"):
        Graphs(tmp_path, manifest, "auto", None, silent, "fp16")
    with pytest.raises(UsageError, match="no type 'int8'"):
        Graphs(tmp_path, manifest, "auto", None, silent, "int8")


def test_a_cache_that_cannot_be_written_is_none(factory: Factory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pool(tmp_path, tmp_path / "file").open("unet")
    assert factory.opened[0][3] is None
