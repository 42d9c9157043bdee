"""`latentc compile ARTIFACT OUT --rebuild`: what it prints, and what does not go with it."""

from __future__ import annotations

import json

import pytest

from artifacts.verification import open_artifact
from tests.compiler.rebuilding import compiled


@pytest.fixture
def artifact(tmp_path):
    compiled(tmp_path / "artifact")
    return open_artifact(tmp_path / "artifact")


def test_the_command(artifact, tmp_path, latentc):
    ended = latentc("compile", artifact.root, tmp_path / "out", "--rebuild", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["artifact"] == str(tmp_path / "out")
    ended = latentc("compile", artifact.root, tmp_path / "out", "--rebuild", "--force")
    assert ended.out.splitlines()[-1].startswith("Not measured: unet (built again without the model; before:")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--precision", "fp32"), "--precision does not go with --rebuild"),
        (("--target", "tensorrt"), "--target does not go with --rebuild"),
        (("--fix", "batch=2"), "--fix is in the artifact's graphs already"),
        (("--gpu", "sm89"), "No such option"),
        (("-o", "gpu=sm89"), "target 'directml' has no option 'gpu' (it has: fix)"),
    ],
)
def test_what_does_not_go_with_it(args, message, artifact, tmp_path, latentc):
    ended = latentc("compile", artifact.root, tmp_path / "out", "--rebuild", *args)
    assert ended.code == 2
    assert message in ended.err


def test_a_model_is_no_artifact(tmp_path, latentc):
    ended = latentc("compile", "shapes", tmp_path / "out", "--rebuild", "--gpu", "sm89")
    assert ended.code == 1
    assert "does not exist; an artifact is a folder with a latentc.json" in ended.err
