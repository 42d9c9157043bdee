"""The graph pass: what it makes computes what its scheme says, from one weight at a time."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from artifacts.errors import LatentcError
from compiler.passes.lower_precision import lower_precision
from compiler.quantize import scheme_table
from compiler.quantize.apply import QuantizePass
from compiler.quantize.decide import decide
from compiler.quantize.find import find
from compiler.quantize.stream import ChosenValues, Scratch
from targets.graph.nf4_nodes import as_matmul_bnb4
from targets.graph.weights import Cast, Transpose, WeightRef
from tests.compiler.passes.graphs import bind, error, evaluate, ops, parse, weight
from tests.compiler.quantize.made import KINDS, case, quantized

TYPES = {
    ("int8", False): ir.DataType.INT8,
    ("int8", True): ir.DataType.UINT8,
    ("int4", False): ir.DataType.INT4,
    ("int4", True): ir.DataType.UINT4,
}
# Of normal weights, in each scheme.
ERRORS = {"int8": (0.002, 0.012), "int4": (0.06, 0.13), "nf4": (0.06, 0.12)}


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_computes_with_the_quantized_weight(kind, scheme, asymmetric, tmp_path):
    made = case(kind, tmp_path)
    (reference,) = evaluate(made.model, [made.x])
    run = quantized(made, tmp_path, scheme, asymmetric=asymmetric)
    (record,) = run.records
    if (kind, scheme) == ("transposed", "int4"):
        assert (record.scheme, record.note) == ("int8", "int8: a transposed convolution")
        scheme, asymmetric = "int8", False
    low, high = ERRORS[scheme]
    assert low < record.error < high
    stored = {v.const_value.dtype for v in made.model.graph.initializers.values() if v.name == "w"}
    assert stored == {TYPES[scheme, asymmetric]}
    (got,) = evaluate(made.model, [made.x])
    assert low / 2 < error([got], [reference]) < high * 2
    # To the last bit what the record speaks of: a product's error is the weight's error.
    if kind == "gather":
        assert error([got], [reference]) == pytest.approx(record.error, rel=0.3)


@pytest.mark.parametrize("kind", ["matmul", "gemm"])
def test_nf4_becomes_matmul_bnb4(kind, tmp_path):
    made = case(kind, tmp_path)
    (reference,) = evaluate(made.model, [made.x])
    (record,) = quantized(made, tmp_path, "nf4").records
    before = {n: v.const_value for n, v in made.model.graph.initializers.items()}
    lowered = as_matmul_bnb4(made.model)
    assert ops(lowered)["MatMulBnb4"] == 1 and ops(made.model)["DequantizeNormalFloat4"] == 1
    assert {n: v.const_value for n, v in made.model.graph.initializers.items()} == before
    (got,) = evaluate(lowered, [made.x])
    assert error([got], [reference]) < 0.2
    assert 0.06 < record.error < 0.12
    # The same graph with the weight that nf4 restores, in fp32.
    rows = made.weight.T if kind == "matmul" else made.weight
    scheme, options = scheme_table.get("nf4"), scheme_table.options("nf4", {})
    restored = scheme.dequantize(scheme.quantize(np.ascontiguousarray(rows), options), options)
    again = tmp_path / "again"
    again.mkdir()
    exact = case(kind, again, np.ascontiguousarray(restored.T if kind == "matmul" else restored))
    assert error([got], evaluate(exact.model, [made.x])) < 1e-5


@pytest.mark.parametrize("scheme", ["int4", "nf4"])
@pytest.mark.parametrize("kind", ["matmul", "gemm", "conv"])
def test_a_low_rank_correction_is_added(kind, scheme, tmp_path):
    if (kind, scheme) == ("conv", "nf4"):
        pytest.skip("nf4 leaves convolutions at int8")
    made = case(kind, tmp_path)
    rng = np.random.default_rng(3)
    # Outliers in a few directions are what it is for.
    flat = made.weight.reshape(made.weight.shape[0], -1)
    flat += (rng.standard_normal((flat.shape[0], 2)) @ rng.standard_normal((2, flat.shape[1]))).astype(
        np.float32
    )
    made = case(kind, tmp_path, made.weight)
    (reference,) = evaluate(made.model, [made.x])
    plain = tmp_path / "plain"
    plain.mkdir()
    (without,) = quantized(case(kind, plain, made.weight), plain, scheme).records
    (record,) = quantized(made, tmp_path, scheme, low_rank=4).records
    assert record.error < without.error / 2
    lowered, _ = lower_precision(made.model, "fp16", "weights")
    (got,) = evaluate(as_matmul_bnb4(lowered), [made.x])
    assert error([got], [reference]) < 2 * record.error
    assert record.bytes > without.bytes


@pytest.mark.parametrize("kind", ["matmul", "gemm"])
def test_values_from_elsewhere_are_written_with_what_was_divided_out(kind, tmp_path):
    made = case(kind, tmp_path)
    (reference,) = evaluate(made.model, [made.x])
    options = scheme_table.options("int4", {"method": "awq"})
    rows = np.ascontiguousarray(made.weight.T if kind == "matmul" else made.weight)
    by = np.linspace(0.5, 3, rows.shape[1], dtype=np.float32)
    chosen = ChosenValues(scheme_table.get("int4").quantize(rows / by, options), by)
    run = QuantizePass(
        lambda key, layout: decide("int4", options, layout),
        Scratch(tmp_path / "s"),
        chosen_values={"w": lambda: chosen},
    )
    run(made.model)
    (record,) = run.records
    restored = scheme_table.get("int4").dequantize(chosen.blocks, options) * by
    assert record.error == pytest.approx(error([restored], [rows]), rel=1e-3)
    assert (record.scheme, record.note) == ("int4:group=64,method=awq", "")
    assert record.bytes == rows.size // 2 + rows.size // 64 * 2 + 2 * rows.shape[1]
    (got,) = evaluate(made.model, [made.x])
    x = made.x @ restored.T
    bias = reference - made.x @ rows.T
    assert error([got], [x + bias]) < 1e-5
    assert ops(made.model)["Mul"] == 1


def test_an_error_that_is_no_number_is_not_recorded(tmp_path):
    made = case("matmul", tmp_path)
    options = scheme_table.options("int4", {"method": "awq"})
    blocks = scheme_table.get("int4").quantize(np.ascontiguousarray(made.weight.T), options)
    chosen = ChosenValues(replace(blocks, scale=np.full_like(blocks.scale, np.nan)), None)
    run = QuantizePass(
        lambda key, layout: decide("int4", options, layout),
        Scratch(tmp_path / "s"),
        chosen_values={"w": lambda: chosen},
    )
    with pytest.raises(
        LatentcError, match=r"'w' is not finite in int4:group=64,method=awq.*\n.*match = \"w\""
    ):
        run(made.model)


def test_a_weight_that_a_method_left_out_is_plain_int4_and_says_so(tmp_path):
    made = case("matmul", tmp_path)
    plain = tmp_path / "plain"
    plain.mkdir()
    (same,) = quantized(case("matmul", plain, made.weight), plain, "int4").records
    (record,) = quantized(made, tmp_path, "int4", method="gptq").records
    assert (record.scheme, record.note) == ("int4:group=64", "no gptq: it left this weight out")
    assert (record.bytes, record.error) == (same.bytes, same.error)


def test_each_weight_is_read_once_and_none_is_kept(tmp_path, monkeypatch):
    made = case("matmul", tmp_path)
    reads = []
    load = WeightRef._load
    monkeypatch.setattr(WeightRef, "_load", lambda self: reads.append(self.key) or load(self))
    quantized(made, tmp_path, "int4")
    assert reads == ["w"]
    for value in made.model.graph.initializers.values():
        assert isinstance(value.const_value, WeightRef)


def test_stored_types_and_layout_steps_are_followed(tmp_path):
    """A weight as safetensors hold it: bf16 [out, in], widened and transposed on the way to a MatMul."""
    made = case("matmul", tmp_path)
    stored = weight(tmp_path, "lin.weight", made.weight.T.astype(ir.DataType.BFLOAT16.numpy()))
    value = made.model.graph.initializers["w"]
    value.const_value = stored.then(Cast(ir.DataType.FLOAT), Transpose((1, 0)))
    (reference,) = evaluate(made.model, [made.x])
    (record,) = quantized(made, tmp_path, "int8").records
    assert record.key == "lin.weight"
    assert error(evaluate(made.model, [made.x]), [reference]) < 0.01


def test_vectors_small_and_shared_weights_stay(tmp_path):
    made = case("gemm", tmp_path, np.ones((8, 100), np.float32))
    assert find(made.model) == []
    shared = case("matmul", tmp_path)
    transposed = ir.node("Transpose", [shared.model.graph.initializers["w"]], {"perm": [1, 0]})
    shared.model.graph.append(transposed)
    assert find(shared.model) == []


def test_nothing_chosen_changes_nothing(tmp_path):
    made = case("conv", tmp_path)
    run = QuantizePass(lambda key, layout: None, Scratch(tmp_path / "s"))
    assert not run(made.model).modified and run.records == ()


def test_scales_stay_fp16_in_every_precision(tmp_path):
    for precision in ("fp32", "fp16", "bf16"):
        folder = tmp_path / precision
        folder.mkdir()
        made = case("matmul", folder)
        quantized(made, folder, "int4")
        lowered, _ = lower_precision(made.model, precision, "weights")
        assert lowered.graph.initializers["w.scale"].const_value.dtype == ir.DataType.FLOAT16


def test_scales_that_fp16_cannot_hold_are_fp32(tmp_path):
    made = case("matmul", tmp_path, np.full((128, 96), 1e-9, np.float32))
    quantized(made, tmp_path, "int4")
    lowered, _ = lower_precision(made.model, "fp16", "weights")
    assert lowered.graph.initializers["w.scale"].const_value.dtype == ir.DataType.FLOAT
    options = scheme_table.options("int4", {})
    assert decide("int4", options, find(case("gemm", tmp_path).model)[0].layout).name == "int4"
    (got,) = evaluate(made.model, [made.x])
    assert error([got], [made.x @ made.weight]) < 1e-3


def test_memory_holds_one_weight_at_a_time(tmp_path):
    """Twelve weights of 2 MiB each: what is alive at once is a few copies of one."""
    rng = np.random.default_rng(0)
    names = [f"w{i}" for i in range(12)]
    weights = ", ".join(f"float[1024,512] {name}" for name in names)
    products = "\n".join(f"y{i} = MatMul(x, {name})" for i, name in enumerate(names))
    outputs = ", ".join(f"float[B,512] y{i}" for i in range(12))
    model = parse(f"(float[B,1024] x, {weights}) => ({outputs}) {{ {products} }}")
    bind(model, tmp_path, **{name: rng.standard_normal((1024, 512)).astype(np.float32) for name in names})
    options = scheme_table.options("int4", {})
    run = QuantizePass(lambda key, layout: decide("int4", options, layout), Scratch(tmp_path / "s"))
    tracemalloc.start()
    try:
        run(model)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(run.records) == 12
    # The weight, its values and its packed values, and a chunk of 1 MiB with its temporary arrays.
    assert peak < 16 * 2**20
