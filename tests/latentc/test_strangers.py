"""Commands in a folder whose files are called as our modules and Python's: none of them is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.strangers import strangers

needs_tensorrt = pytest.mark.skipif(
    sys.platform == "darwin", reason="TensorRT-RTX has no wheels for this system"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder; it is the current one."""
    monkeypatch.chdir(strangers(tmp_path / "here"))
    return tmp_path / "here"


def module(*args: object) -> subprocess.CompletedProcess[str]:
    """`python -m latentc ARGS`, which looks into the current folder first by Python's own rule."""
    return subprocess.run(
        [sys.executable, "-m", "latentc", *map(str, args)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_module_is_the_command(here: Path) -> None:
    done = module("targets")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "onnxruntime" in done.stdout and "was run" not in done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion."""
    from tests.sweep.models import CASES

    folder = tmp_path_factory.mktemp("model") / "tiny"
    CASES["sd15"].build().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled in such a folder, by `python -m latentc`, and checked in a process of its own."""
    folder = strangers(tmp_path_factory.mktemp("compiled"))
    done = subprocess.run(
        [sys.executable, "-m", "latentc", "compile", str(model), "out", "--target", "onnxruntime"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Worst relative error to PyTorch" in done.stdout and "was run" not in done.stdout
    return folder / "out"


@pytest.mark.slow
def test_pictures_are_drawn(here: Path, artifact: Path) -> None:
    done = module("generate", artifact, "a cat", "--steps", 1, "--seed", 7, "-o", "cat.png")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (here / "cat.png").is_file() and "was run" not in done.stdout


@pytest.mark.slow
def test_graphs_are_held_to_a_snapshot(latentc, here: Path, model: Path) -> None:
    part = ("--component", "text_encoder", "--target", "onnxruntime")
    assert latentc("graph", "snapshot", model, *part, "-o", "tiny.graph").code == 0
    done = module("graph", "check", model, "--golden", "tiny.graph")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "was run" not in done.stdout


@pytest.mark.slow
def test_verify_measures_again(latentc, here: Path, artifact: Path) -> None:
    ended = latentc("verify", artifact, "--numerics")
    assert ended.code == 0, ended.err
    assert "quick:" in ended.out


@pytest.mark.slow
@needs_tensorrt
def test_engines_are_built(latentc, here: Path, model: Path) -> None:
    ended = latentc(
        "compile", model, "rtx", "--target", "tensorrt", "--gpu", "sm89", "--size", "32x32", "--batch", "1",
        "--check", "none",
    )  # fmt: skip
    assert ended.code == 0, ended.err
