"""`kill -9` at ten random moments of a compile: OUT is never half there, and the run after it ends right."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.verification import open_artifact, verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]

KILLS = 10


@pytest.fixture
def compiler(sd15, tmp_path: Path):
    """Compiles to tmp_path/out, for at most some seconds; whether it was killed, and how long it lived."""
    pytest.importorskip("onnxruntime")
    command = [sys.executable, "-m", "tests.compiler.killed_compile", str(sd15), str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not live through a fork
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def run(seconds: float) -> tuple[bool, float]:
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
            word, lived = process.stdout.readline().split()
            return word == "killed", float(lived)

        yield run
        process.stdin.close()


def test_ten_kills(compiler, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed, whole = compiler(float("inf"))
    assert not killed and verify(out) == ()
    wanted = {g.folder: g.digest for g in open_artifact(out).manifest.graphs}
    shutil.rmtree(out)

    rng = random.Random(9)
    kills = parts = 0
    while kills < KILLS:
        killed, _ = compiler(rng.uniform(0.0, whole))
        kills += killed
        if killed:
            assert not out.exists()
            parts = max(parts, sum(1 for _ in tmp_path.rglob("model.onnx_data")))
        else:
            # Parts of killed runs make the next one quick: begin anew.
            assert verify(out) == ()
            shutil.rmtree(out)
    assert parts > 0  # at least one kill came after a part was written

    killed, _ = compiler(float("inf"))
    assert not killed and verify(out) == ()
    assert {g.folder: g.digest for g in open_artifact(out).manifest.graphs} == wanted
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
