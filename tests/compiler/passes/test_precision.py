"""Lower precision: what is cast where, what stays in fp32, and that the result loads and is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from artifacts.errors import UsageError
from compiler.passes import pass_table
from compiler.passes.precision import audit, element_type, out_of_range, saturated
from compiler.passes.precision_strong import PrecisionStrongPass, StrongOptions
from compiler.passes.precision_weights import PrecisionWeightsPass, WeightOptions
from targets.graph.weights import Cast, Stored, WeightRef
from tests.compiler.passes.graphs import bind, error, evaluate, ghost, ops, parse

_LINEAR = """(float[N,32] x, float[32,64] w, float[64] b) => (float[N,64] y) {
    a = MatMul(x, w)
    y = Add(a, b)
}"""


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "w": rng.standard_normal((32, 64)).astype(np.float32),
        "b": rng.standard_normal(64).astype(np.float32),
    }


def _x(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 1e-3), ("bf16", 1e-2)])
def test_weights_are_stored_lower_and_computed_in_fp32(tmp_path: Path, precision: str, bound: float) -> None:
    model = bind(parse(_LINEAR), tmp_path, **_arrays())
    want = evaluate(model, [_x(3, 32)])
    pass_table.run(model, (PrecisionWeightsPass(WeightOptions(precision)),), check=True)
    stored = model.graph.initializers["w"].const_value
    assert isinstance(stored, WeightRef) and isinstance(stored.transforms[-1], Cast)
    assert ops(model) == {"Cast": 1, "MatMul": 1, "Add": 1}
    assert model.graph.initializers["b"].dtype == ir.DataType.FLOAT
    assert 0 < error(evaluate(model, [_x(3, 32)]), want) < bound


def test_a_weight_stored_in_fp16_is_not_converted_twice() -> None:
    model = ghost(parse(_LINEAR), w=(32, 64), b=(64,))
    source = Stored(Path("nowhere"), "w", ir.DataType.FLOAT16, (32, 64), 0, 4096)
    model.graph.initializers["w"].const_value = WeightRef(source, (Cast(ir.DataType.FLOAT),), "w")
    pass_table.run(model, (PrecisionWeightsPass(),), check=True)
    stored = model.graph.initializers["w"].const_value
    assert isinstance(stored, WeightRef) and Cast(ir.DataType.FLOAT) not in stored.transforms


def test_weights_beyond_the_range_are_found_and_kept(tmp_path: Path) -> None:
    arrays = _arrays()
    arrays["w"][3, 5] = 1e5
    model = bind(parse(_LINEAR), tmp_path, **arrays)
    large = out_of_range(model, "fp16")
    assert large == {"w": pytest.approx(1e5)} and not out_of_range(model, "bf16")
    pass_table.run(model, (PrecisionWeightsPass(WeightOptions(keep=frozenset(large))),))
    assert ops(model)["Cast"] == 0


def test_the_audit_does_not_read_what_its_type_answers(tmp_path: Path) -> None:
    half = WeightRef(
        Stored(Path("nowhere"), "h", ir.DataType.FLOAT16, (4,), 0, 8), (Cast(ir.DataType.FLOAT),), "h"
    )
    assert audit(half, "fp16") is None
    assert audit(ir.tensor(np.array([np.nan], np.float32)), "fp16") is not None


def test_an_unknown_precision_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'int3'.*fp16, bf16"):
        element_type("int3")


def test_extremes_saturate_to_half_the_range_and_infinities_stay() -> None:
    array = np.array([-3.4e38, 1e5, -np.inf, 2.0], np.float32)
    assert saturated(array, ir.DataType.FLOAT16).tolist() == [-32752.0, 65504.0, -np.inf, 2.0]


def test_strong_keeps_inputs_and_outputs_fp32(tmp_path: Path) -> None:
    model = bind(parse(_LINEAR), tmp_path, **_arrays())
    want = evaluate(model, [_x(3, 32)])
    pass_table.run(model, (PrecisionStrongPass(),), check=True)
    assert [v.dtype for v in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert [v.name for v in model.graph.outputs] == ["y"] and set(model.graph.initializers) == {"w", "b"}
    assert all(v.dtype == ir.DataType.FLOAT16 for v in model.graph.initializers.values())
    assert ops(model) == {"Cast": 2, "MatMul": 1, "Add": 1}
    assert 0 < error(evaluate(model, [_x(3, 32)]), want) < 5e-3


def test_strong_bf16_is_a_valid_graph() -> None:
    model = ghost(parse(_LINEAR), w=(32, 64), b=(64,))
    pass_table.run(model, (PrecisionStrongPass(StrongOptions("bf16")),), check=True)
    assert all(v.dtype == ir.DataType.BFLOAT16 for v in model.graph.initializers.values())


def test_phases_and_positions_stay_fp32() -> None:
    text = """(int64[N] t, float[4,4] w) => (float[N,4] y) {
        f = Cast<to=1>(t)
        one = Constant<value_ints=[1]>()
        u = Unsqueeze(f, one)
        k = Constant<value_floats=[1.0, 0.5, 0.25, 0.125]>()
        p = Mul(u, k)
        s = Sin(p)
        y = MatMul(s, w)
    }"""
    model = ghost(parse(text), w=(4, 4))
    pass_table.run(model, ("fold", PrecisionStrongPass(StrongOptions("bf16"))), check=True)
    kinds = {n.op_type: n.outputs[0].dtype for n in model.graph}
    assert kinds["Mul"] == kinds["Sin"] == ir.DataType.FLOAT and kinds["MatMul"] == ir.DataType.BFLOAT16


def test_a_norm_of_squares_stays_fp32_to_its_root() -> None:
    text = """(float[N,8] x) => (float[N,8] y) {
        two = Constant<value_float=2.0>()
        eps = Constant<value_float=1e-6>()
        one = Constant<value_ints=[1]>()
        q = Pow(x, two)
        m = ReduceMean<keepdims=1>(q, one)
        e = Add(m, eps)
        r = Sqrt(e)
        i = Reciprocal(r)
        y = Mul(x, i)
    }"""
    x = np.full((2, 8), 1000.0, np.float32)  # its square overflows fp16
    model = pass_table.run(parse(text), ("fold", PrecisionStrongPass()), check=True)
    assert np.allclose(evaluate(model, [x])[0], 1.0, rtol=1e-2)
    kinds = {n.op_type: n.outputs[0].dtype for n in model.graph}
    assert kinds["Add"] == kinds["Sqrt"] == ir.DataType.FLOAT and kinds["Mul"] == ir.DataType.FLOAT16


def test_fp32_only_inputs_of_an_op_stay(tmp_path: Path) -> None:
    text = """(float[N,2,4,4] x) => (float[N,2,8,8] y) {
        a = Relu(x)
        scales = Constant<value_floats=[1.0, 1.0, 2.0, 2.0]>()
        y = Resize<
            mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        >(a, , scales)
    }"""
    model = pass_table.run(parse(text), ("fold", PrecisionStrongPass()), check=True)
    (resize,) = [n for n in model.graph if n.op_type == "Resize"]
    assert resize.inputs[0] is not None and resize.inputs[0].dtype == ir.DataType.FLOAT16
    assert resize.inputs[2] is not None and resize.inputs[2].dtype == ir.DataType.FLOAT
    x = _x(1, 2, 4, 4)
    assert evaluate(model, [x])[0].shape == (1, 2, 8, 8)


def test_constants_that_do_not_fit_keep_their_readers() -> None:
    text = """(float[N,4] x) => (float[N,4] y) {
        a = Relu(x)
        tiny = Constant<value_float=1e-12>()
        b = Add(a, tiny)
        y = Log(b)
    }"""
    model = pass_table.run(parse(text), ("fold", PrecisionStrongPass()), check=True)
    y = evaluate(model, [np.zeros((1, 4), np.float32)])[0]
    assert np.allclose(y, np.log(1e-12), rtol=1e-3)


def test_a_fully_masked_row_gives_no_nan_in_fp16() -> None:
    text = """(float[N,4] x, bool[N,4] keep) => (float[N,4] y) {
        zero = Constant<value_float=0.0>()
        low = Constant<value_float=-3.4028235e38>()
        m = Where(keep, zero, low)
        s = Add(x, m)
        y = Softmax<axis=-1>(s)
    }"""
    model = pass_table.run(parse(text), ("fold", PrecisionStrongPass()), check=True)
    y = evaluate(model, [np.full((1, 4), -900.0, np.float32), np.zeros((1, 4), bool)])[0]
    assert np.allclose(y, 0.25, atol=1e-3)
