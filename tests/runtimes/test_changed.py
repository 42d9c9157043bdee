"""Graphs whose files change between `load` and a run, with real vendors and with one that is made up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError
from artifacts.hashing import file_record
from artifacts.manifest import MANIFEST_NAME, DimRange
from artifacts.pinned import Pinned
from artifacts.progress import silent
from artifacts.verification import open_artifact
from runtimes import graphs as module
from runtimes.graphs import Graphs
from targets import target_table as targets
from targets.graph.onnx_files import symbols
from targets.target_contract import Context
from tests.contract.graphs import Denoiser
from tests.runtimes import tiny
from tests.runtimes.test_graphs import Factory, Session

VENDORS = ("openvino", "onnxruntime")
INPUTS = Denoiser("fp32").inputs(2, 3)


def publish(root: Path, target: str) -> Path:
    """An artifact with one real graph, in "unet"."""
    graph = Denoiser("fp32").model()
    (root / "unet").mkdir(parents=True)
    vendor = targets.get(target)
    dims = {name: DimRange(min=1, max=32) for name in symbols(graph)}
    written = vendor.lower(graph, vendor.options(), root / "unet", Context(dims=dims))
    record = tiny.graph("unet", [], {}).model_copy(update={"model_file": f"unet/{written.model_file}"})
    files = tuple(file_record(root, path) for path in sorted(root.rglob("*")) if path.is_file())
    manifest = tiny.manifest().model_copy(
        update={"target": target, "graphs": (record,), "components": (), "files": files}
    )
    (root / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return root


@pytest.fixture(scope="module", params=VENDORS)
def published(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(request.param)
    return publish(tmp_path_factory.mktemp(request.param) / "artifact", request.param)


@pytest.fixture
def artifact(published: Path, tmp_path: Path) -> Path:
    shutil.copytree(published, tmp_path / "artifact")
    return tmp_path / "artifact"


def loaded(root: Path) -> Graphs:
    opened = open_artifact(root)
    files = Pinned(opened)
    return Graphs(files.root, opened.manifest, "cpu", None, silent, files=files)


def weights(root: Path) -> Path:
    """The graph's largest file."""
    return max((root / "unet").iterdir(), key=lambda file: file.stat().st_size)


def spoil(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-64:] = bytes(64)
    file.write_bytes(data)


def test_weights_that_change_before_the_first_run_are_an_error(artifact: Path) -> None:
    graphs = loaded(artifact)
    spoil(weights(artifact))
    with pytest.raises(LatentcError, match="has changed since it was loaded: 'unet/"):
        graphs.run("unet", INPUTS)


def test_weights_that_change_while_a_vendor_has_them_open_are_an_error(artifact: Path) -> None:
    graphs = loaded(artifact)
    graphs.run("unet", INPUTS)
    spoil(weights(artifact))
    with pytest.raises(LatentcError, match="has changed since it was loaded: 'unet/"):
        graphs.run("unet", INPUTS)
    graphs.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows renames no folder with open files")
def test_an_artifact_that_is_replaced_stays_the_old_one_where_it_is_open(
    artifact: Path, published: Path
) -> None:
    graphs, unopened = loaded(artifact), loaded(artifact)
    right = graphs.run("unet", INPUTS)["out_sample"]
    another = artifact.with_name("another")
    shutil.copytree(published, another)
    spoil(weights(another))
    artifact.rename(artifact.with_name("old"))
    another.rename(artifact)
    shutil.rmtree(artifact.with_name("old"))
    assert np.array_equal(graphs.run("unet", INPUTS)["out_sample"], right)
    with pytest.raises(LatentcError, match="has changed since it was loaded: 'unet/"):
        unopened.run("unet", INPUTS)
    graphs.close()


class Meddling(Factory):
    """A vendor during whose opening something happens."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self.happens = happens

    def open(self, *given: Any) -> Session:
        self.happens()
        return super().open(*given)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    return publish(tmp_path / "artifact", "onnxruntime")


def test_a_file_that_changes_while_it_is_opened_is_an_error(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = Meddling(lambda: spoil(weights(fake)))
    monkeypatch.setattr(module.session_table, "get", lambda target: factory)
    with pytest.raises(LatentcError, match="has changed since it was loaded"):
        loaded(fake).open("unet")
    assert [session.closed for session in factory.sessions] == [1]


@pytest.mark.skipif(os.name == "nt", reason="Windows tells no time of a rename")
def test_an_artifact_that_was_away_while_a_graph_was_opened(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = fake.with_name("away")

    def swap() -> None:
        fake.rename(away)
        away.rename(fake)

    factory = Meddling(lambda: None if factory.sessions else swap())
    monkeypatch.setattr(module.session_table, "get", lambda target: factory)
    loaded(fake).open("unet")
    assert [session.closed for session in factory.sessions] == [1, 0]  # Opened anew.
    always = Meddling(swap)
    monkeypatch.setattr(module.session_table, "get", lambda target: always)
    with pytest.raises(LatentcError, match="was renamed each time unet was opened"):
        loaded(fake).open("unet")
    assert all(session.closed for session in always.sessions)


def test_what_a_vendor_refuses_because_it_changed_is_told_as_a_change(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        weights(fake).unlink()
        raise LatentcError("openvino cannot open it")

    monkeypatch.setattr(module.session_table, "get", lambda target: Meddling(refuse))
    with pytest.raises(LatentcError, match="has changed since it was loaded"):
        loaded(fake).open("unet")


def test_a_session_that_opens_files_later_runs_on_no_other_artifact(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(Session):
        opens_later = True

    monkeypatch.setattr("tests.runtimes.test_graphs.Session", Later)
    factory = Factory()
    monkeypatch.setattr(module.session_table, "get", lambda target: factory)
    graphs = loaded(fake)
    given: Any = {"sample": np.ones(2, np.float32)}
    graphs.run("unet", given)
    file = weights(fake)
    file.rename(fake / "old")
    file.write_bytes(b"another")
    with pytest.raises(LatentcError, match="has changed since it was loaded"):
        graphs.run("unet", given)
