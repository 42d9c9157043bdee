"""NNCF's methods on small graphs: what comes back is the weights in four bits, and serves the data better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from targets.data_aware_contract import Values, Weight
from targets.openvino.nncf import AWQ, GPTQ, METHODS

RNG = np.random.default_rng(0)
WEIGHTS = {
    "first": RNG.standard_normal((256, 128)).astype(np.float32) / 8,
    "left": RNG.standard_normal((64, 256)).astype(np.float32) / 8,
    "right": RNG.standard_normal((32, 256)).astype(np.float32) / 8,
    "other": RNG.standard_normal((64, 128)).astype(np.float32) / 8,
}


def restored(made: Values) -> np.ndarray:
    """The weight that the values stand for."""
    values = made.values.reshape(*made.scale.shape, -1).astype(np.float32)
    if made.zero is not None:
        values -= made.zero[..., None]
    weight = (values * made.scale[..., None]).reshape(made.values.shape)
    return weight if made.inputs is None else weight * made.inputs


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """h = swish(x . first); the outputs are h . left, h . right, which share h, and x . other."""
    ov = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    def product(x, name: str, turned: bool):
        array = WEIGHTS[name].astype(np.float16)
        constant = ops.constant(array if turned else np.ascontiguousarray(array.T))
        constant.set_friendly_name(name)
        return ops.matmul(x, ops.convert(constant, "f32"), False, turned)

    x = ops.parameter([-1, -1, 128], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    h = ops.swish(product(x, "first", False))
    out = [product(h, "left", True), product(h, "right", True), product(x, "other", False)]
    file = tmp_path / "graph.xml"
    ov.save_model(ov.Model(out, [x], "graph"), file, compress_to_fp16=False)
    return file


def calls(count: int = 8) -> list[dict[str, np.ndarray]]:
    """Tokens of a few directions, some channels of which are much larger than others, as in trained networks."""
    rng = np.random.default_rng(2)
    basis = rng.standard_normal((16, 128)) * np.exp(rng.standard_normal(128))
    return [{"x": (rng.standard_normal((2, 9, 16)) @ basis / 4).astype(np.float32)} for _ in range(count)]


def lost(made: Values, weight: np.ndarray, tokens: np.ndarray) -> float:
    """Relative error of the product on the data."""
    wanted = tokens @ weight.T
    return float(np.linalg.norm(tokens @ restored(made).T - wanted) / np.linalg.norm(wanted))


@pytest.mark.slow
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_weights_come_back_in_four_bits(method, asymmetric, graph):
    pytest.importorskip("nncf")
    wanted = [
        Weight("first", 64, asymmetric),
        Weight("left", 64, asymmetric),
        Weight("right", 32, asymmetric),
    ]
    found = dict(method.compress(graph, wanted, calls()))
    assert list(found) == wanted  # and not "other", which was not asked for
    for weight, made in found.items():
        original = WEIGHTS[weight.name]
        rows, inner = original.shape
        assert made.values.shape == original.shape and made.scale.shape == (rows, inner // weight.group)
        assert (made.zero is None) == (not asymmetric)
        low, high = (0, 15) if asymmetric else (-8, 7)
        assert made.values.min() >= low and made.values.max() <= high
        # Of two readers of one activation, each has what was moved out of its own weight.
        assert np.linalg.norm(restored(made) - original) < 0.25 * np.linalg.norm(original)
        assert method is AWQ or made.inputs is None
    if method is AWQ:
        assert any(made.inputs is not None for made in found.values())
    again = dict(method.compress(graph, wanted, calls()))
    for weight, made in found.items():
        assert np.array_equal(made.values, again[weight].values)
        assert np.array_equal(made.scale, again[weight].scale)


@pytest.mark.slow
def test_gptq_loses_less_on_the_data_than_the_weight_alone_tells(graph):
    pytest.importorskip("nncf")
    from compiler.quantize import scheme_table

    options = scheme_table.options("int4", {"scales": "fp32"})
    blocks = scheme_table.get("int4").quantize(WEIGHTS["first"], options)
    plain = Values(blocks.values, blocks.scale, None, None)
    ((_, made),) = GPTQ.compress(graph, [Weight("first", 64, False)], calls())
    tokens = np.concatenate([call["x"].reshape(-1, 128) for call in calls(12)[8:]])
    assert lost(made, WEIGHTS["first"], tokens) < 0.7 * lost(plain, WEIGHTS["first"], tokens)


@pytest.mark.slow
def test_a_weight_that_the_graph_does_not_multiply_with_is_an_error(graph):
    pytest.importorskip("nncf")
    with pytest.raises(RuntimeError, match="no product of the weight 'nobody'"):
        list(GPTQ.compress(graph, [Weight("nobody", 64, False)], calls(1)))


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    from targets import versions

    monkeypatch.setattr(versions, "_importable", lambda module: module != "nncf")
    found = AWQ.available()
    assert (found.ok, found.reason) == (False, "the package 'nncf' is not installed")
    assert found.install == "pip install nncf"
