"""Activations in int8: ranges from taps that run inside a graph, and the pairs that use them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compiler.quantize import int8_ranges, scheme_table
from compiler.quantize.int8_ranges import SHARES, Range, first_ranges, outliers, second_ranges, sites, tap
from tests.compiler.passes.graphs import bind, error, evaluate, ops, parse
from tests.compiler.quantize.made import case, quantized

TWO = """(float[B,64] x, float[64,64] w, float[64,64] v) => (float[B,64] y, float[B,64] z) {
    a = Relu(x)
    y = MatMul(a, w)
    z = MatMul(a, v)
}"""


def two(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((64, 64)).astype(np.float32) / 8 for name in "wv"}
    return bind(parse(TWO), tmp_path, **arrays)


def everything(key, layout):
    return True


def test_readers_of_one_activation_share_a_site(tmp_path):
    model = two(tmp_path)
    (site,) = sites(model, everything)
    assert (site.value.name, site.keys, len(site.readers)) == ("a", ("w", "v"), 2)
    assert sites(model, lambda key, layout: False) == []
    assert sites(case("gather", tmp_path).model, everything) == []


def test_the_first_taps_are_the_ranges(tmp_path):
    model = two(tmp_path)
    x = np.random.default_rng(1).standard_normal((7, 64)).astype(np.float32)
    tapped = tap(model, sites(model, everything))
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    taps, y, z = evaluate(tapped, [x])
    a = np.maximum(x, 0)
    assert np.allclose(taps, [0, a.max(), (a * a).mean()], rtol=1e-5)
    assert error([y, z], evaluate(model, [x])) == 0
    (found,) = first_ranges(np.stack([taps, taps * 2]))
    assert (found.low, found.zero) == (0, 0) and found.high == pytest.approx(2 * a.max())


def test_the_second_taps_are_what_rounding_costs(tmp_path):
    model = two(tmp_path)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, 64)).astype(np.float32)
    x[3, 5] = 100  # an outlier
    some = sites(model, everything)
    first, *_ = evaluate(tap(model, some), [x])
    ranges = first_ranges(first[None])
    assert outliers(ranges) == [0]
    second, *_ = evaluate(tap(model, some, ranges), [x])
    assert second.shape == (len(SHARES),)
    a = np.maximum(x, 0).astype(np.float64)
    for share, got in zip(SHARES, second, strict=True):
        known = int8_ranges.cut(ranges[0], share)
        levels = np.clip(np.rint(a / known.scale), -known.zero, 255 - known.zero)
        assert got == pytest.approx(((levels * known.scale - a) ** 2).mean(), rel=1e-3)
    (best,) = second_ranges(ranges, first[None], second[None])
    assert best.error == pytest.approx(np.sqrt(second.min() / first[2]), rel=1e-4)


def test_a_range_without_outliers_needs_no_second_run():
    taps = np.array([[-1.0, 1.0, 1 / 3]], np.float32)
    (found,) = first_ranges(taps)
    assert found.error == pytest.approx(2 / 255 / np.sqrt(12) * np.sqrt(3), rel=1e-3)
    assert outliers([found]) == [0] if found.error > 0.004 else outliers([found]) == []
    assert outliers([Range(0, 1, 0.003)]) == []


def test_zero_is_exact_and_an_activation_of_zeros_is_no_division():
    for low, high in ((-0.3, 5.0), (0.0, 1.0), (-2.0, 0.0), (0.0, 0.0)):
        found = Range(low, high, 0.0)
        assert 0 <= found.zero <= 255 and found.scale > 0
    (found,) = first_ranges(np.zeros((2, 3), np.float32))
    assert (found.error, found.scale) == (0.0, 1.0)


@pytest.mark.parametrize("kind", ["matmul", "gemm", "conv"])
def test_pairs_stand_in_front_of_the_readers(kind, tmp_path):
    made = case(kind, tmp_path)
    (reference,) = evaluate(made.model, [made.x])
    some = sites(made.model, everything)
    taps, *_ = evaluate(tap(made.model, some), [made.x])
    ranges = first_ranges(taps[None])
    (record,) = quantized(made, tmp_path, "int8-activations").records
    assert record.scheme == "int8-activations"
    int8_ranges.quantize(made.model, some, ranges)
    assert ops(made.model)["QuantizeLinear"] == 1 and ops(made.model)["DequantizeLinear"] == 2
    assert 0.002 < error(evaluate(made.model, [made.x]), [reference]) < 0.03


@pytest.mark.parametrize("kind", ["matmul", "conv"])
def test_symmetric_pairs_are_int8_with_zero_in_the_middle(kind, tmp_path):
    made = case(kind, tmp_path)
    (reference,) = evaluate(made.model, [made.x])
    some = sites(made.model, everything)
    taps, *_ = evaluate(tap(made.model, some), [made.x])
    ranges = first_ranges(taps[None], symmetric=True)
    assert all(found.low == -found.high and found.zero == 128 for found in ranges)
    quantized(made, tmp_path, "int8-activations")
    int8_ranges.quantize(made.model, some, ranges, symmetric=True)
    (down,) = (node for node in made.model.graph if node.op_type == "QuantizeLinear")
    zero = down.inputs[2].const_value
    assert zero.dtype == ir.DataType.INT8 and zero.numpy() == 0
    assert down.outputs[0].dtype == ir.DataType.INT8
    assert 0.002 < error(evaluate(made.model, [made.x]), [reference]) < 0.03


def test_a_site_without_a_range_stays_float(tmp_path):
    model = two(tmp_path)
    int8_ranges.quantize(model, sites(model, everything), [None])
    assert "QuantizeLinear" not in ops(model)


def test_openvino_runs_the_pairs_as_int8_kernels(tmp_path):
    ov = pytest.importorskip("openvino")
    for kind, layer in (("conv", "Convolution"), ("matmul", "FullyConnected")):
        folder = tmp_path / kind
        folder.mkdir()
        made = case(kind, folder)
        some = sites(made.model, everything)
        taps, *_ = evaluate(tap(made.model, some), [made.x])
        quantized(made, folder, "int8-activations")
        int8_ranges.quantize(made.model, some, first_ranges(taps[None]))
        ir.save(made.model, folder / "m.onnx")
        compiled = ov.Core().compile_model(folder / "m.onnx", "CPU")
        info = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
        kinds = {i["layerType"].astype(str): i["runtimePrecision"].astype(str) for i in info}
        assert kinds[layer] in ("u8", "i8"), kinds
        # In integers on any processor what the pairs say in floating point: nothing overflows.
        (wanted,) = evaluate(made.model, [made.x])
        assert error([compiled(made.x)[0]], [wanted]) < 5e-3


def test_weights_have_seven_bits_unless_asked():
    rows = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    scheme = scheme_table.get("int8-activations")
    for given, top in (({}, 63), ({"bits": 8}, 127)):
        values = scheme.quantize(rows, scheme_table.options("int8-activations", given)).values
        assert (np.abs(values).max(axis=1) == top).all()


@pytest.mark.parametrize("second", [False, True])
def test_an_activation_is_measured_as_soon_as_it_is_there(second, tmp_path):
    """OpenVINO would else keep all of them until the graph's own output is done."""
    openvino = pytest.importorskip("openvino")
    depth = 6
    weights = [f"w{i}" for i in range(depth)]
    lines = [f"h{i} = MatMul({f'r{i - 1}' if i else 'x'}, w{i})\n r{i} = Relu(h{i})" for i in range(depth)]
    given = ", ".join(f"float[64,64] {name}" for name in weights)
    body = f"(float[B,64] x, {given}) => (float[B,64] r{depth - 1}) {{ {' '.join(lines)} }}"
    rng = np.random.default_rng(0)
    model = bind(
        parse(body), tmp_path, **{name: rng.standard_normal((64, 64)).astype(np.float32) for name in weights}
    )
    some = sites(model, everything)
    ir.save(
        tap(model, some, [Range(-1.0, 1.0, 0.1)] * len(some) if second else None), tmp_path / "model.onnx"
    )
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU")
    nodes = {op.get_friendly_name(): op.get_rt_info() for op in compiled.get_runtime_model().get_ops()}
    order = sorted(nodes, key=lambda name: int(nodes[name]["execOrder"].astype(int)))
    measured = 0
    for name in order:
        if name in {f"h{i}" for i in range(depth)}:
            # Before the second product, the first one's input has been measured, and so on.
            assert measured >= int(name[1:]) * (len(SHARES) if second else 3)
        measured += "ReduceM" in name
    assert measured == depth * (len(SHARES) if second else 3)
