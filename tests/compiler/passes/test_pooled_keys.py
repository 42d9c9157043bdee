"""Attention over a picture's tokens with pooled keys: where it is found, what it leaves, and that it reads means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from artifacts.errors import UsageError
from compiler import road
from compiler.passes import pass_table as table
from compiler.passes import pooled_keys
from compiler.passes.approximations import APPROXIMATIONS, approximations
from compiler.passes.pooled_keys import PooledKeysPass
from targets import target_table as targets
from targets.graph.dims import dims
from tests.compiler.passes.graphs import bind, error, evaluate, ops, parse

_RNG = np.random.default_rng(0)
CHANNELS, HEADS, SIZE = 8, 2, 4


def _array(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


_WEIGHTS = {name: _array(CHANNELS, CHANNELS) for name in ("wq", "wk", "wv", "wo")} | {"bv": _array(CHANNELS)}


def _attention(
    folder: Path,
    grid: str = "N,8,6,4",
    flatten: str = "",
    keys: str = "normed",
    mask: str = "",
    extra: str = "",
) -> ir.Model:
    """Self-attention as `sdpa` leaves it, over a picture [batch, channels, height, width] with a residual."""
    flatten = flatten or "turned = Transpose<perm=[0,2,3,1]>(x)\n        t = Reshape(turned, rows)"
    model = parse(
        f"""(float[{grid}] x, float[{CHANNELS},{CHANNELS}] wq, float[{CHANNELS},{CHANNELS}] wk,
             float[{CHANNELS},{CHANNELS}] wv, float[{CHANNELS}] bv, float[{CHANNELS},{CHANNELS}] wo)
           => (float[N,T,{CHANNELS}] y{extra}) {{
        rows = Constant<value_ints=[0, -1, {CHANNELS}]>()
        split = Constant<value_ints=[0, -1, {HEADS}, {SIZE}]>()
        scale = Constant<value_float=0.5>()
        one = Constant<value_floats=[{", ".join(["1.0"] * CHANNELS)}]>()
        {flatten}
        normed = LayerNormalization<axis=-1>(t, one)
        doubled = Add(normed, normed)
        q = MatMul(normed, wq)
        k = MatMul({keys}, wk)
        v0 = MatMul(normed, wv)
        v = Add(v0, bv)
        qs = Reshape(q, split)
        ks = Reshape(k, split)
        vs = Reshape(v, split)
        qt = Transpose<perm=[0,2,1,3]>(qs)
        kt = Transpose<perm=[0,2,3,1]>(ks)
        vt = Transpose<perm=[0,2,1,3]>(vs)
        scaled = Mul(qt, scale)
        scores = MatMul(scaled, kt)
        {mask or "masked = Identity(scores)"}
        p = Softmax<axis=-1>(masked)
        o = MatMul(p, vt)
        ot = Transpose<perm=[0,2,1,3]>(o)
        flat = Reshape(ot, rows)
        out = MatMul(flat, wo)
        y = Add(out, t)
    }}"""
    )
    model.graph.opset_imports[""] = 21
    bind(model, folder, **_WEIGHTS)
    from targets.graph.graph_validity import complete

    complete(model)
    table.run(model, ("fold", "dead"))
    for value in (value for node in model.graph for value in node.outputs):
        # As the exporter names sizes that are put together of others.
        if value.shape is not None and value.dtype == ir.DataType.FLOAT:
            value.shape = ir.Shape(
                ["T" if str(d).startswith(("None", "unk")) else d for d in dims(value) or ()]
            )
    return model


@pytest.fixture(autouse=True)
def few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled_keys, "FEWEST_KEYS", 20)


def _means(x: np.ndarray) -> np.ndarray:
    """Each pixel as the mean of its 2x2 neighbours, at odd edges of those that there are."""
    out = np.empty_like(x)
    for i in range(0, x.shape[2], 2):
        for j in range(0, x.shape[3], 2):
            out[:, :, i : i + 2, j : j + 2] = x[:, :, i : i + 2, j : j + 2].mean((2, 3), keepdims=True)
    return out


@pytest.mark.parametrize(
    ("grid", "size", "flatten"),
    [
        ("2,8,6,4", (2, 8, 6, 4), ""),
        ("2,8,5,7", (2, 8, 5, 7), ""),
        ("2,8,6,4", (2, 8, 6, 4), "r = Reshape(x, columns)\n t = Transpose<perm=[0,2,1]>(r)"),
    ],
)
def test_keys_and_values_are_read_of_means(
    tmp_path: Path, grid: str, size: tuple[int, ...], flatten: str
) -> None:
    columns = "columns = Constant<value_ints=[0, 8, -1]>()\n"
    model = _attention(tmp_path, grid, columns + flatten if flatten else "")
    x = _array(*size)
    exact = evaluate(model, [x])
    result = PooledKeysPass()(model)
    assert result.modified and ops(model)["AveragePool"] == 1
    table.run(model, (), check=True)
    pooled = evaluate(model, [x])
    assert 1e-3 < error(pooled, exact) < 1  # It is none of the exact rewrites.
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    keys = -(-size[2] // 2) * -(-size[3] // 2)
    assert list(softmax.outputs[0].shape or ())[-1] == keys


def test_of_a_picture_that_is_flat_in_squares_only_the_number_of_keys_changes(tmp_path: Path) -> None:
    """Four equal keys weigh as one, so attention over their means is the same."""
    model = _attention(tmp_path, "2,8,6,4")
    x = _means(_array(2, 8, 6, 4))
    exact = evaluate(model, [x])
    assert PooledKeysPass()(model).modified
    assert error(evaluate(model, [x]), exact) < 1e-5


def test_sizes_that_are_declared_are_judged_by_the_largest(tmp_path: Path) -> None:
    def model() -> ir.Model:
        return _attention(tmp_path, "N,8,H,W")

    assert not PooledKeysPass({"N": 2, "H": 4, "W": 4})(model()).modified
    assert not PooledKeysPass()(model()).modified
    pooled = model()
    assert PooledKeysPass({"N": 2, "H": 6, "W": 4})(pooled).modified
    table.run(pooled, (), check=True)
    for size in ((2, 8, 6, 4), (1, 8, 5, 4), (1, 8, 3, 7)):
        x = _array(*size)
        alone = _attention(tmp_path, ",".join(map(str, size)))
        assert PooledKeysPass()(alone).modified
        assert error(evaluate(pooled, [x]), evaluate(alone, [x])) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": "doubled"},
        {"mask": "masked = Add(scores, scale)"},
        {"grid": "2,8,3,4"},
        {"grid": "2,8,24,1"},
        {"grid": "2,24,8", "flatten": "t = Identity(x)"},
        {"extra": ", float[N,2,4,T] kt"},
    ],
    ids=["another source", "a mask", "few keys", "a row", "no picture", "keys that others read"],
)
def test_what_is_not_surely_a_pictures_self_attention_stays(tmp_path: Path, changes: dict[str, str]) -> None:
    model = _attention(tmp_path, **{"grid": "2,8,6,4", **changes})
    before = ops(model)
    assert not PooledKeysPass()(model).modified
    assert ops(model) == before


def test_it_has_to_be_asked_for_by_name_where_a_target_takes_it(tmp_path: Path) -> None:
    target = targets.get("onnxruntime")
    assert road.Road.to(target, "fp32").approximations == ()
    asked = road.Road.to(target, "fp32", approximate="pooled-keys")
    arrived = asked.run(_attention(tmp_path, "2,8,6,4"), read_weights=False)
    assert arrived.approximations == ("pooled-keys",) and "pooled-keys" in asked.name
    # Attention stays in the form that runtimes have kernels for.
    assert arrived.rewrites == ("multi-head-attention",)
    assert asked.without_rewrites().approximations == ()
    with pytest.raises(UsageError, match="no approximation 'x'.*it has: pooled-keys"):
        approximations(target, "pooled-keys,x")
    with pytest.raises(UsageError, match="'tensorrt' has no approximation 'pooled-keys'.*it has: none"):
        approximations(targets.get("tensorrt"), "pooled-keys")
    assert all(0 < approximation.tolerance < 1 for approximation in APPROXIMATIONS.values())
