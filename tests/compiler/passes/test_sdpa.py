"""Attention: one scale on the queries, one transpose of the keys, no masks and guards that do nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compiler.passes import pass_table
from tests.compiler.passes.graphs import error, evaluate, ops, parse

# As torch's exporter writes it at opset 21, {mask} and {guard} aside.
_ATTENTION = """(float[N,2,S,8] q, float[N,2,S,8] k, float[N,2,S,8] v{inputs}) => (float[N,2,S,8] y) {{
    flat_shape = Constant<value_ints=[-1, {S}, 8]>()
    lead = Shape<start=0, end=2>(k)
    tail = Constant<value_ints=[8, {S}]>()
    turned_shape = Concat<axis=0>(lead, tail)
    flat = Reshape(k, flat_shape)
    turned = Transpose<perm=[0,2,1]>(flat)
    kt = Reshape(turned, turned_shape)
    root = Constant<value_float=0.594604>()
    zero = Constant<value_float=0.0>()
    qs = Mul(q, root)
    ks = Mul(kt, root)
    product = MatMul(qs, ks)
    {mask}
    p = Softmax<axis=-1>(scores)
    {guard}
    y = MatMul(out, v)
}}"""
_GUARD = "nan = IsNaN(p)\n out = Where(nan, zero, p)"


def _attention(
    mask: str = "scores = Identity(product)", guard: str = "out = Identity(p)", inputs: str = ""
) -> ir.Model:
    text = _ATTENTION.format(mask=mask, guard=guard, inputs=inputs, S=5).replace("S,8", "5,8")
    return parse(text.replace("S]", "5]"))


def _feeds(*more: np.ndarray) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((3, 2, 5, 8)).astype(np.float32) for _ in range(3)] + list(more)


def test_scales_merge_and_keys_turn_once() -> None:
    model = _attention()
    want = evaluate(model, _feeds())
    pass_table.run(model, check=True)
    assert ops(model) == {"Mul": 1, "Transpose": 1, "MatMul": 2, "Softmax": 1}
    assert error(evaluate(model, _feeds()), want) < 1e-6


def test_a_guard_after_a_finite_mask_goes() -> None:
    mask = """low = Constant<value_float=-3.4028235e38>()
    masked = Where(keep, zero, low)
    scores = Add(product, masked)"""
    model = _attention(mask, _GUARD, ", bool[5,5] keep")
    feeds = _feeds(np.tril(np.ones((5, 5), bool)))
    want = evaluate(model, feeds)
    pass_table.run(model, check=True)
    assert ops(model)["IsNaN"] == 0 and ops(model)["Where"] == 1
    assert error(evaluate(model, feeds), want) < 1e-6


@pytest.mark.parametrize("kind", ["input", "infinite"])
def test_a_guard_that_can_trigger_stays(kind: str) -> None:
    if kind == "input":
        model = _attention("scores = Add(product, extra)", _GUARD, ", float[5,5] extra")
        extra = np.full((5, 5), -np.inf, np.float32)
    else:
        mask = "low = Log(zero)\n masked = Where(keep, zero, low)\n scores = Add(product, masked)"
        model = _attention(mask, _GUARD, ", bool[5,5] keep")
        extra = np.zeros((5, 5), bool)
    pass_table.run(model, check=True)
    assert ops(model)["IsNaN"] == 1
    assert np.array_equal(evaluate(model, _feeds(extra))[0], np.zeros((3, 2, 5, 8), np.float32))


def test_a_mask_that_masks_nothing_goes() -> None:
    mask = """all = Constant<value=bool[1] {1}>()
    low = Constant<value_float=-3.4028235e38>()
    n = Shape<start=0, end=1>(q)
    rest = Constant<value_ints=[1, 5, 5]>()
    size = Concat<axis=0>(n, rest)
    wide = Expand(all, size)
    masked = Where(wide, zero, low)
    scores = Add(product, masked)"""
    model = _attention(mask, _GUARD)
    want = evaluate(model, _feeds())
    pass_table.run(model, check=True)
    assert ops(model) == {"Mul": 1, "Transpose": 1, "MatMul": 2, "Softmax": 1}
    assert error(evaluate(model, _feeds()), want) < 1e-6


def test_a_causal_mask_is_not_expanded_to_the_batch() -> None:
    mask = """steps = Constant<value_ints=[0,1,2,3,4]>()
    row = Constant<value_ints=[1,5]>()
    column = Constant<value_ints=[5,1]>()
    i = Reshape(steps, column)
    j = Reshape(steps, row)
    keep = LessOrEqual(j, i)
    low = Constant<value_float=-3.4028235e38>()
    n = Shape<start=0, end=1>(q)
    rest = Constant<value_ints=[1, 5, 5]>()
    size = Concat<axis=0>(n, rest)
    wide = Expand(keep, size)
    masked = Where(wide, zero, low)
    scores = Add(product, masked)"""
    model = _attention(mask, _GUARD)
    want = evaluate(model, _feeds())
    pass_table.run(model, check=True)
    assert ops(model) == {"Mul": 1, "Transpose": 1, "MatMul": 2, "Softmax": 1, "Add": 1}
    assert error(evaluate(model, _feeds()), want) < 1e-6


def test_a_scale_that_others_read_stays_for_them() -> None:
    model = parse("""(float[N,4,8] q, float[N,8,4] k) => (float[N,4,4] y, float[N,4,8] z) {
        root = Constant<value_float=0.5>()
        qs = Mul(q, root)
        ks = Mul(k, root)
        a = MatMul(qs, ks)
        y = Softmax<axis=-1>(a)
        z = Relu(qs)
    }""")
    rng = np.random.default_rng(0)
    feeds = [rng.standard_normal(s).astype(np.float32) for s in ((2, 4, 8), (2, 8, 4))]
    want = evaluate(model, feeds)
    pass_table.run(model, check=True)
    assert error(evaluate(model, feeds), want) < 1e-6


def test_a_mask_that_others_read_keeps_its_size() -> None:
    mask = """low = Constant<value_float=-3.4028235e38>()
    n = Shape<start=0, end=1>(q)
    rest = Constant<value_ints=[1, 5, 5]>()
    size = Concat<axis=0>(n, rest)
    wide = Expand(keep, size)
    masked = Where(wide, zero, low)
    z = Neg(masked)
    scores = Add(product, masked)"""
    text = _ATTENTION.format(mask=mask, guard=_GUARD, inputs=", bool[1,1,5,5] keep", S=5)
    text = text.replace("S,8", "5,8").replace("S]", "5]").replace("y) {", "y, float[N,1,5,5] z) {", 1)
    model = parse(text)
    feeds = _feeds(np.ones((1, 1, 5, 5), bool))
    want = evaluate(model, feeds)
    pass_table.run(model, check=True)
    assert error(evaluate(model, feeds), want) < 1e-6
