"""No double precision: where fp64 becomes fp32, and that little is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from compiler.passes import pass_table
from targets.directml.kernel_coverage import coverage
from targets.graph.graph_validity import complete
from tests.compiler.passes.graphs import bind, evaluate, ops, parse

# Positions and frequencies as rotary embeddings compute them.
_ROTARY = """(int64[N] ids, double[8] freqs) => (float[N,8] y) {
    p = Cast <to: int = 11> (ids)
    one = Constant <value_ints: ints = [-1]> ()
    c = Unsqueeze(p, one)
    a = Mul(c, freqs)
    half = Constant <value = double {0.5}> ()
    b = Mul(a, half)
    s = Cos(b)
    t = Cast <to: int = 1> (s)
    y = Relu(t)
}"""


def _types(model: ir.Model) -> set[ir.DataType | None]:
    values = [v for node in model.graph.all_nodes() for v in (*node.inputs, *node.outputs) if v is not None]
    return {value.dtype for value in values}


def test_a_table_in_double_is_computed_in_single(tmp_path: Path) -> None:
    freqs = 10000.0 ** -np.arange(0, 1, 1 / 8)
    model = bind(parse(_ROTARY), tmp_path, freqs=freqs)
    ids = np.arange(0, 512, 7)
    want = np.maximum(np.cos(ids[:, None] * freqs * 0.5), 0)
    complete(model)
    model = pass_table.run(model, ("without-fp64",), check=True)
    assert ir.DataType.DOUBLE not in _types(model)
    assert ops(model)["Cast"] == 1  # Of the positions; fp32 to fp32 is gone.
    (found,) = evaluate(model, [ids])
    assert np.abs(found - want).max() < 1e-4
    model.graph.opset_imports[""] = 20
    assert not [f for f in coverage(model).fallbacks if "double" in f.reason]


def test_inputs_and_outputs_stay_what_they_are(tmp_path: Path) -> None:
    model = parse("""(double[N] x) => (double[N] y, double[N] z) {
        y = Sqrt(x)
        z = Identity(x)
    }""")
    model = pass_table.run(model, ("without-fp64",), check=True)
    assert [v.dtype for v in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.DOUBLE] * 3
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    sqrt = next(node for node in model.graph if node.op_type == "Sqrt")
    assert sqrt.inputs[0] is not None
    assert sqrt.inputs[0].dtype == sqrt.outputs[0].dtype == ir.DataType.FLOAT
    x = np.array([2.0, 3.0])
    y, z = evaluate(model, [x])
    assert y.dtype == z.dtype == np.float64
    assert np.allclose(y, np.sqrt(x), rtol=1e-6)


def test_other_graphs_are_not_touched(tmp_path: Path) -> None:
    model = parse("(float[N] x) => (float[N] y) { y = Relu(x) }")
    passed = pass_table.make("without-fp64")(model)
    assert not passed.modified
    assert ops(passed.model) == {"Relu": 1}
