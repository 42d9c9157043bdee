from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runtimes import hostile, tiny
from tests.runtimes.conftest import Compiled

# What is passed over rather than refused: nothing of it is read.
LOADED = {
    "another configuration file",
    "a vocabulary elsewhere",
    "a tokenizer elsewhere",
    "a result that is a module",
}


@pytest.fixture(scope="module")
def outcomes(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("hostile")
    artifact = tiny.publish(compiled.root, place / "artifact")
    ran = subprocess.run(
        [sys.executable, hostile.__file__, str(artifact), str(place)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", hostile.CASES)
def test_a_strangers_artifact_reads_its_own_files_alone(outcomes: dict[str, Any], case: str) -> None:
    """Seen by Python's audit events: no pickle, no connection, no file outside the artifact."""
    found = outcomes[case]
    assert found["seen"] == []
    assert found["outcome"].startswith("loaded" if case in LOADED else "refused: "), found["outcome"]
