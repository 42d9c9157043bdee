from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import LatentcError
from bench.project import interop, peers
from bench.project.interop import LOADERS, MINIMUM, Outcome

REQUEST = {"prompt": "a", "steps": 1, "guidance": 1.0, "seed": 0, "width": 4, "height": 4}
OURS = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.name)
def test_the_peer_gets_the_artifact_and_the_request(
    loader: interop.Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def run(name: str, *arguments: str, tell: object) -> str:
        calls.append((name, *arguments))
        if arguments[0].endswith("draw.py"):
            np.save(arguments[3], OURS)
        return ""

    monkeypatch.setattr(peers, "run", run)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    outcome = interop._outcome(loader, "shapes", artifact, REQUEST, np.round(OURS * 255) / 255, tmp_path)
    assert outcome.psnr == math.inf and outcome.passed
    name, script, kind, folder, _, request = calls[-1]
    assert (name, Path(script).name, kind) == (loader.peer, "draw.py", loader.name)
    assert json.loads(request) == REQUEST
    assert Path(folder) == artifact


def test_a_peer_that_fails_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, *arguments: str, tell: object) -> str:
        raise LatentcError("no model.onnx")

    monkeypatch.setattr(peers, "run", run)
    outcome = interop._outcome(LOADERS[0], "shapes", tmp_path, REQUEST, OURS, tmp_path)
    assert outcome.psnr is None and not outcome.passed and "no model.onnx" in outcome.failure


def test_a_loop_of_its_own_is_held_to_what_it_draws_from_its_own_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = np.clip(OURS + 0.25, 0, 1)
    exported: list[str] = []

    def run(name: str, *arguments: str, tell: object) -> str:
        if arguments[0].endswith("draw.py"):
            np.save(arguments[3], export)
        else:
            exported.extend(arguments)
        return ""

    monkeypatch.setattr(peers, "run", run)
    loader = next(loader for loader in LOADERS if loader.exporter)
    outcome = interop._outcome(loader, "shapes", tmp_path, REQUEST, np.round(OURS * 255) / 255, tmp_path)
    assert outcome.passed and outcome.reference == "its export's"
    assert outcome.psnr_to_ours is not None and outcome.psnr_to_ours < loader.minimum
    # Of a folder the exporter asks for the task.
    assert exported[exported.index("--task") + 1] == "text-to-image"


def test_a_different_picture_does_not_pass() -> None:
    assert Outcome("a", "b", MINIMUM).passed
    assert not Outcome("a", "b", MINIMUM - 1).passed
