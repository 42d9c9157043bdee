"""`pytest --latentc-golden`, as a user's project runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from compiler.snapshot.golden_snapshot import write
from tests.compiler.snapshot.test_prints import snapshot

pytestmark = pytest.mark.slow  # each test starts a pytest of its own

# Stands in for capture and export: the model is whatever its own file says.
CONFTEST = """
from pathlib import Path
import compiler.snapshot.golden_snapshot as checking
from compiler.snapshot.diff import diff

def check(model, golden, *, update=False):
    now = checking.read(Path(model) / "now.graph")
    changes = diff(checking.read(golden), now)
    if update:
        checking.write(golden, now)
    return changes

checking.check = check
"""


@pytest.fixture
def project(tmp_path):
    """A project with two models, "same" and "other", of which the second has changed."""
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "golden").mkdir()
    for name, made_by in (("same", "torch 2"), ("other", "torch 3")):
        write(tmp_path / "golden" / f"{name}.graph", snapshot())
        folder = tmp_path / "golden" / name
        folder.mkdir()
        write(folder / "now.graph", snapshot(made_by=made_by))
    return tmp_path


def pytest_in(folder, *args):
    """Output and exit status."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "latentc.pytest_plugin",
            "-p",
            "no:cacheprovider",
            "-q",
            *args,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_ADDOPTS": ""},
    )
    return done.stdout, done.returncode


def test_every_snapshot_is_a_test_that_says_what_changed(project):
    out, code = pytest_in(project, "--latentc-golden", "golden")
    assert code == 1, out
    assert "1 failed, 1 passed" in out
    assert "golden:other" in out
    assert "made by torch 2 -> torch 3" in out
    assert "Traceback" not in out


def test_allowed_and_updated(project):
    out, code = pytest_in(project, "--latentc-golden", "golden", "--latentc-allow", "metadata")
    assert (code, "2 passed" in out) == (0, True), out
    assert pytest_in(project, "--latentc-golden", "golden", "--latentc-update")[1] == 0
    assert pytest_in(project, "--latentc-golden", "golden")[1] == 0


def test_models_may_be_elsewhere(project):
    (project / "golden" / "same").rename(project / "same")
    (project / "golden" / "other").rename(project / "other")
    out, _ = pytest_in(project, "--latentc-golden", "golden", "--latentc-models", ".")
    assert "1 failed, 1 passed" in out


def test_an_empty_folder_is_a_mistake(project):
    (project / "empty").mkdir()
    assert pytest_in(project, "--latentc-golden", "empty")[1] == 4
