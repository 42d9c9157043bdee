"""What the tests of `artifacts` share: a fake compile, and an artifact that it made."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module `fake_compile.py`."""
    spec = importlib.util.spec_from_file_location("fake_compile", Path(__file__).with_name("fake_compile.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def artifact(fake: ModuleType, tmp_path: Path) -> Path:
    """A sound artifact."""
    return fake.compile_fake(tmp_path / "artifact", "A", tmp_path / "log")
