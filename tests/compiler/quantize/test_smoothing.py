"""SmoothQuant: what it folds, what it leaves alone, and that a quantized product comes nearer."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from compiler.quantize import int8_ranges, smoothing
from compiler.quantize.int8_ranges import Range, first_ranges, sites
from compiler.quantize.smoothing import Channels, channels, factors, fold, smoothable
from targets.graph.weights import Multiply, WeightRef
from tests.compiler.passes.graphs import bind, error, evaluate, ops, parse

NORM = """(float[B,6,64] x, float[64] s, float[64] t, float[64,64] w, float[64,64] v) => (float[B,6,64] y, float[B,6,64] z) {
    n = LayerNormalization <axis = -1> (x, s, t)
    y = MatMul(n, w)
    z = MatMul(n, v)
}"""  # noqa: E501


def everything(key, layout):
    return True


def made(tmp_path, text=NORM, outlier=40.0):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((64, 64)).astype(np.float32) / 8 for name in "wv"}
    scale = np.ones(64, np.float32)
    scale[5] = outlier
    model = bind(parse(text), tmp_path, s=scale, t=np.full(64, 0.1, np.float32), **arrays)
    model.graph[0].outputs[0].shape = ir.Shape(["B", 6, 64])
    model.graph[0].outputs[0].dtype = ir.DataType.FLOAT
    return model, sites(model, everything)


def calls(count=3):
    rng = np.random.default_rng(1)
    return [rng.standard_normal((2, 6, 64)).astype(np.float32) for _ in range(count)]


def measured(model, found):
    tapped = int8_ranges.tap(model, [], by_channel=[group.site.value for group in found])
    return channels(found, np.stack([evaluate(tapped, [x])[0] for x in calls()]))


def test_the_taps_are_each_channels(tmp_path):
    model, found = made(tmp_path)
    (known,) = measured(model, smoothable(model, found))
    normal = [(x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) for x in calls()]
    scale = np.ones(64)
    scale[5] = 40
    values = np.stack(normal).reshape(-1, 64) * scale + 0.1
    assert np.allclose(known.low, values.min(axis=0), rtol=1e-4)
    assert np.allclose(known.high, values.max(axis=0), rtol=1e-4)
    assert np.allclose(known.power, (values**2).mean(axis=0), rtol=1e-4)


def test_what_is_divided_needs_no_other_run(tmp_path):
    model, found = made(tmp_path)
    groups = smoothable(model, found)
    tapped = int8_ranges.tap(model, found, by_channel=[group.site.value for group in groups])
    taps = np.stack([evaluate(tapped, [x])[0] for x in calls()])
    by = np.random.default_rng(2).uniform(0.1, 10, 64).astype(np.float32)
    for divisor, atol in ((None, 1e-6), (by, 1e-4)):
        predicted = smoothing.smoothed(groups, taps[:, 3:], [divisor])
        if divisor is not None:
            fold(model, groups[0], divisor)
        again = np.stack([evaluate(int8_ranges.tap(model, found), [x])[0] for x in calls()])
        assert predicted.shape == (3, 1, 3) and np.allclose(predicted[:, 0], again, rtol=1e-4, atol=atol)


def quantized_error(model, inputs):
    """Of the products with activations and weights in int8."""
    found = sites(model, everything)
    taps = np.stack([evaluate(int8_ranges.tap(model, found), [x])[0] for x in calls()])
    copy = model.clone()
    int8_ranges.quantize(copy, sites(copy, everything), first_ranges(taps))
    for weight in smoothing.find(copy):
        rows = weight.value.const_value.numpy()
        step = np.abs(rows).max(axis=0) / 127
        weight.value.const_value = ir.tensor((np.rint(rows / step) * step).astype(np.float32))
    return error(evaluate(copy, [inputs]), evaluate(model, [inputs]))


def test_folding_changes_nothing_but_the_error_of_eight_bits(tmp_path):
    model, found = made(tmp_path)
    (one,) = smoothable(model, found)
    (known,) = measured(model, [one])
    by = factors(one, known, 127)
    assert by is not None and by[5] > 3 * np.median(by)
    x = calls(1)[0]
    plain, before = evaluate(model, [x]), quantized_error(model, x)
    fold(model, one, by)
    assert error(evaluate(model, [x]), plain) < 1e-5
    assert quantized_error(model, x) < 0.6 * before
    assert {"s", "t"}.isdisjoint(model.graph.initializers)
    weight = model.graph.initializers["w"].const_value
    assert isinstance(weight, WeightRef) and weight.transforms == (Multiply.of(by, 0),)
    assert ops(model) == {"LayerNormalization": 1, "MatMul": 2}


def test_where_channels_are_alike_nothing_is_folded(tmp_path):
    model, found = made(tmp_path)
    (one,) = smoothable(model, found)
    alike = np.ones(64)
    signs = np.where(np.arange(64 * 64).reshape(64, 64) % 3 == 0, -0.1, 0.1)
    one = dataclasses.replace(one, weights=(Plain(ir.tensor(signs.astype(np.float32))),))
    assert factors(one, Channels(-3 * alike, 3 * alike, alike), 127) is None


@dataclasses.dataclass(frozen=True)
class Plain:
    """A weight whose rows are at hand."""

    rows: ir.Tensor


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("z = MatMul(n, v)", "z = Relu(n)"),  # somebody else reads the norm
        ("z = MatMul(n, v)", "z = MatMul(x, w)"),  # somebody else reads the weight
        ("axis = -1", "axis = 1"),
        ("n = LayerNormalization <axis = -1> (x, s, t)", "n = Mul(x, s)"),
    ],
)
def test_what_cannot_be_folded_is_left_alone(tmp_path, old, new):
    text = NORM.replace(old, new)
    if "axis = 1" in new:
        text = text.replace("float[64] s, float[64] t", "float[6,64] s, float[6,64] t")
        arrays = {name: np.ones((6, 64) if name in "st" else (64, 64), np.float32) for name in "stwv"}
        model = bind(parse(text), tmp_path, **arrays)
        model.graph[0].outputs[0].shape = ir.Shape(["B", 6, 64])
        model.graph[0].outputs[0].dtype = ir.DataType.FLOAT
        found = sites(model, everything)
    else:
        model, found = made(tmp_path, text)
    assert [one for one in smoothable(model, found) if one.norm.outputs[0].name == "n"] == []


def test_channels_that_are_always_zero_stay(tmp_path):
    model, found = made(tmp_path)
    (one,) = smoothable(model, found)
    (known,) = measured(model, [one])
    for array in (known.low, known.high, known.power):
        array[7] = 0
    by = factors(one, known, 127)
    assert by is not None and np.isfinite(by).all() and by[7] == 1
    assert Range(0, 0, 0).scale == 1
