from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LatentcError, UsageError
from bench.project import peers


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """What pip is asked for; environments are made in a folder of the test, empty."""
    asked: list[tuple[str, ...]] = []

    def create(folder: Path, **_: Any) -> None:
        where = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        where.parent.mkdir(parents=True)
        where.touch()

    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(peers.venv, "create", create)
    monkeypatch.setattr(peers, "_pip", lambda where, *arguments: asked.append(arguments))
    return asked


def test_an_environment_is_made_once(installs: list[tuple[str, ...]], tmp_path: Path) -> None:
    first = peers.python("optimum-intel")
    assert first.is_relative_to(tmp_path) and first.is_file()
    assert [asked[0] for asked in installs] == ["install", "uninstall"]
    assert "optimum-intel" in installs[0]
    assert peers.python("optimum-intel") == first
    assert len(installs) == 2


def test_other_versions_make_it_again(
    installs: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers.python("optimum-onnx")
    (tmp_path / "optimum-onnx.txt").write_text("torch==1\n")
    monkeypatch.setattr(peers, "HERE", tmp_path)
    peers.python("optimum-onnx")
    assert len(installs) == 2


def test_one_that_was_not_finished_is_made_again(
    installs: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(where: Path, *arguments: str) -> None:
        raise LatentcError("pip install failed")

    with monkeypatch.context() as patch, pytest.raises(LatentcError):
        patch.setattr(peers, "_pip", fail)
        peers.python("optimum-onnx")
    peers.python("optimum-onnx")
    assert len(installs) == 1


def test_an_unknown_peer() -> None:
    with pytest.raises(UsageError, match="no peer 'olive'.*optimum-intel, optimum-onnx"):
        peers.python("olive")


@pytest.mark.parametrize("name", sorted(set(peers.PEERS) - {"latentc"}))
def test_every_package_of_an_environment_is_pinned(name: str) -> None:
    lines = (peers.HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert set(peers.PEERS[name].packages) <= pinned
    assert "torch==2.13.0" in lines


def test_our_own_environment_is_of_what_we_require() -> None:
    ours = peers.PEERS["latentc"]
    assert [(Path(place) / "pyproject.toml").is_file() for place in ours.packages] == [True]
    assert "torch==2.13.0" in Path(ours.pins).read_text(encoding="utf-8").splitlines()


def test_what_failed_there_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "python", lambda name, tell: Path(sys.executable))
    assert peers.run("optimum-intel", "-c", "import os; print(os.environ['HF_HUB_OFFLINE'])") == "1\n"
    with pytest.raises(LatentcError, match=r"optimum-intel failed \(exit status 1\):(.|\n)*no such model"):
        peers.run("optimum-intel", "-c", "raise SystemExit('no such model')")
