"""The two runs on recorded calls, with graphs that are evaluated in place of a session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from compiler.quantize import int8_ranges
from compiler.quantize.activation_runs import first_run, second_run
from compiler.quantize.int8_ranges import first_ranges, second_ranges, sites
from compiler.quantize.replay import Replayed
from compiler.quantize.smoothing import fold, smoothable
from tests.compiler.passes.graphs import evaluate
from tests.compiler.quantize.test_smoothing import everything, made

CALLS = [np.random.default_rng(seed).standard_normal((2, 6, 64)).astype(np.float32) for seed in range(6)]


class Replayer:
    """Every second call in the first run, and the ends of those in the second."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def __call__(
        self, tapped: ir.Model, name: str, what: str, among: Sequence[int] | None = None
    ) -> Replayed:
        self.runs.append(name)
        calls = (0, 2, 4) if among is None else (among[0], among[-1])
        return Replayed(np.stack([evaluate(tapped, [CALLS[call]])[0] for call in calls]), calls)


def test_ranges_are_those_of_the_smoothed_graph_and_cuts_compare_the_same_calls(tmp_path: Path) -> None:
    model, found = made(tmp_path)
    groups, replay = smoothable(model, found), Replayer()
    first = first_run(model, found, groups, lambda key: 127, replay)
    assert first.calls == (0, 2, 4) and first.factors[0] is not None
    fold(model, groups[0], first.factors[0])
    again = np.stack([evaluate(int8_ranges.tap(model, found), [CALLS[call]])[0] for call in first.calls])
    assert np.allclose(first.taps, again, rtol=1e-4, atol=1e-4)
    second = second_run(model, found, first, False, replay)
    assert second.calls == 2 and replay.runs == ["first", "second"]
    # What is lost is told of the size that the same two calls have.
    whole = first_ranges(again)
    tapped = int8_ranges.tap(model, found, whole)
    cut = np.stack([evaluate(tapped, [CALLS[call]])[0] for call in (0, 4)])
    (expected,) = second_ranges(whole, again[[0, 2]], cut)
    assert np.allclose(vars(second.ranges[0])["high"], expected.high, rtol=1e-4)
    assert np.allclose(second.ranges[0].error, expected.error, rtol=1e-3)
    assert sites(model, everything)[0].value is found[0].value


def test_ranges_that_round_well_need_no_second_run(tmp_path: Path) -> None:
    model, found = made(tmp_path, outlier=1.0)
    replay = Replayer()
    first = first_run(model, found, (), lambda key: 127, replay)
    first.taps[:] = np.array([-1.0, 1.0, 1.0], np.float32)
    second = second_run(model, found, first, False, replay)
    assert second.calls == 0 and replay.runs == ["first"] and second.ranges[0].high == 1.0
