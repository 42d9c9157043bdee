"""The bench of layers: what it compares computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from bench.project import layers
from bench.project.layers import TRIES, Try
from tests.compiler.passes.graphs import error, evaluate


@pytest.mark.parametrize("each", [t for t in TRIES if t.name != "pad-heads"], ids=lambda t: t.name)
def test_both_sides_are_one_function(each: Try) -> None:
    if each.other is layers.fused_projections:
        pytest.skip("its weights are one tensor, of other noise")
    base, other = each.base(16, 64), each.other(16, 64)
    x = np.random.default_rng(0).standard_normal([int(d) for d in base.graph.inputs[0].shape], np.float32)
    assert error(evaluate(other, [x]), evaluate(base, [x])) < 1e-5


def test_a_row_for_each_target_and_size() -> None:
    small = [Try("split-linear", TRIES[0].base, TRIES[0].other, ((16, 64),))]
    (row,) = layers.measure(small, 1, ["onnxruntime"])
    assert row.startswith("| onnxruntime | split-linear | 16 x 64 | ")
