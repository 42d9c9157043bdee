"""Group norms of flat pictures: rounding errors that the norm would make a thousand times larger stay out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compiler.passes import pass_table
from targets.rewrites.instance_norm import InstanceNormPass
from tests.compiler.passes.graphs import evaluate, ops, parse

_RNG = np.random.default_rng(0)


def _norm(groups: int) -> ir.Model:
    model = parse(
        f"""(float[N,8,H,W] x, float[8] scale, float[8] bias) => (float[N,8,H,W] y) {{
        y = GroupNormalization<num_groups={groups}, epsilon=0.000001>(x, scale, bias)
    }}"""
    )
    model.graph.opset_imports[""] = 21
    return model


def _run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return evaluate(model, [x, np.ones(8, np.float32), np.zeros(8, np.float32)])[0]


def test_a_flat_picture_has_a_norm_of_nothing() -> None:
    model = _norm(8)
    x = np.broadcast_to(_RNG.standard_normal((2, 8, 1, 1)).astype(np.float32), (2, 8, 48, 48)).copy()
    pass_table.run(model, ("centred-norm", InstanceNormPass()), check=True)
    assert not _run(model, x).any()


def test_other_pictures_have_the_norm_that_they_had() -> None:
    model = _norm(8)
    x = _RNG.standard_normal((2, 8, 6, 5)).astype(np.float32)
    pass_table.run(model, ("centred-norm",), check=True)
    want = (x - x.mean((2, 3), keepdims=True)) / x.std((2, 3), keepdims=True)
    assert np.abs(_run(model, x) - want).max() < 1e-5


@pytest.mark.parametrize("groups", [4, 1])
def test_groups_of_several_channels_stay(groups: int) -> None:
    model = _norm(groups)
    pass_table.run(model, ("centred-norm",))
    assert ops(model) == {"GroupNormalization": 1}
