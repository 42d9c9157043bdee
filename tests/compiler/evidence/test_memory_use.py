"""What is told of a graph that could be measured in parts alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from artifacts.resident import Resident
from compiler.evidence import memory_use


def test_a_whole_graph_is_taken_to_need_half_as_much_again_as_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = memory_use.PartsMeter(None, SimpleNamespace(model_file="m.xml", inputs=()), Path(), "cpu", "bf16")

    class Parts:
        inputs = ("x",)

        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            for opened in (300, 500):
                meter._called(Resident(100, 0), 50 + opened, 120 + opened, Resident(100 + opened, 7))
            return inputs

        def close(self) -> None:
            pass

    structure = SimpleNamespace(weight_bytes=16)
    monkeypatch.setattr(memory_use, "PartsSession", Parts)
    monkeypatch.setattr(memory_use, "cut", lambda *arguments: ())
    monkeypatch.setattr(memory_use, "weights_of_cuts", lambda structure: ())
    monkeypatch.setattr(memory_use, "process_memory", lambda: 40)
    form = SimpleNamespace(structure=lambda file: structure)
    use = meter._use(SimpleNamespace(), form, [{"x": np.zeros(2, np.float32)}])
    assert use is not None
    assert (use.anonymous, use.opening, use.file_backed) == (800, 1200, 14)
    assert use.calls[0].anonymous == 20


def test_a_whole_graph_keeps_what_its_calls_compute_in() -> None:
    class Session:
        inputs = ("x",)
        calls = 0

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.calls += 1
            return inputs

        def release(self) -> None:
            raise AssertionError("some graphs do not stand another call then")

    session = Session()
    meter = memory_use.MemoryMeter(())
    meter.open(lambda: session)
    meter.call(session, [{"x": np.zeros(2, np.float32)}, {"x": np.zeros(4, np.float32)}])
    assert session.calls == 3
