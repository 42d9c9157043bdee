"""When a graph's numbers are not measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from artifacts.manifest import Built
from compiler.evidence import compare
from tests.compiler.made import method


def measured(**changes):
    asked = {
        "target": "t", "tolerance": {}, "precision": "fp32", "weights": (), "built": Built(),
        "parameters": 1_000_000, "check": "quick",
    }  # fmt: skip
    component = SimpleNamespace()
    return compare.compare(
        None, component, method(), Path("model.onnx"), progress=lambda event: None, **(asked | changes)
    )


def test_what_was_not_asked_for():
    (found,) = measured(check="none")
    assert (found.check, found.reason, found.error) == ("not measured", "--check none", {})


def test_what_there_is_no_memory_for(monkeypatch):
    asked = []
    monkeypatch.setattr(compare, "memory_needed", lambda count: asked.append(count) or 3 * 2**30)
    monkeypatch.setattr("artifacts.memory.available", lambda: 2**30)
    (found,) = measured()
    assert found.check == "not measured"
    assert found.reason == "it takes 3.0 GiB of memory; 1.0 GiB are free"
    assert asked == [1_000_000]
