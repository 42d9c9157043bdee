"""Folding: what becomes a constant or a step of a weight, what goes; and that weights stay unread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compiler.passes import pass_table
from targets.graph.weights import Joined, Slice, Transpose, WeightRef
from tests.compiler.passes.graphs import bind, error, evaluate, ghost, ops, parse

FOLD = ("fold", "dead")


def test_shape_arithmetic_with_one_free_dimension_is_a_constant_target() -> None:
    model = parse("""(float[N,6,8] x) => (float[N,6,2,4] y) {
        s = Shape<start=0, end=1>(x)
        n = Squeeze(s)
        m = Constant<value_ints=[-1]>()
        n1 = Reshape(n, m)
        rest = Constant<value_ints=[6, 2, 4]>()
        t = Concat<axis=0>(n1, rest)
        y = Reshape<allowzero=1>(x, t)
    }""")
    x = np.random.default_rng(0).standard_normal((3, 6, 8)).astype(np.float32)
    want = evaluate(model, [x])
    pass_table.run(model, FOLD, check=True)
    assert ops(model) == {"Reshape": 1}
    assert error(evaluate(model, [x]), want) == 0


def test_free_dimensions_that_stay_in_place_are_copied_from_the_input() -> None:
    model = parse("""(float[N,S,8] x) => (float[N,S,2,4] y) {
        lead = Shape<start=0, end=2>(x)
        tail = Constant<value_ints=[2, 4]>()
        t = Concat<axis=0>(lead, tail)
        y = Reshape<allowzero=1>(x, t)
    }""")
    x = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
    want = evaluate(model, [x])
    pass_table.run(model, FOLD, check=True)
    assert ops(model) == {"Reshape": 1}
    assert error(evaluate(model, [x]), want) == 0


def test_reshape_with_two_free_dimensions_keeps_its_arithmetic() -> None:
    model = parse("""(float[N,K] x, float[A,B] z) => (float[A,B,C] y) {
        a = Shape(z)
        m = Constant<value_ints=[-1]>()
        t = Concat<axis=0>(a, m)
        y = Reshape(x, t)
    }""")
    feeds = [np.ones((4, 6), np.float32), np.zeros((2, 3), np.float32)]
    want = evaluate(model, feeds)
    pass_table.run(model, FOLD, check=True)
    assert ops(model)["Shape"] == 1
    assert error(evaluate(model, feeds), want) == 0


def test_static_part_of_a_dynamic_shape_is_folded() -> None:
    model = parse("""(float[N,16] q) => (float[N,16] y) {
        s = Shape(q)
        i = Constant<value_ints=[-1]>()
        d = Gather<axis=0>(s, i)
        f = CastLike(d, q)
        one = Constant<value_float=1.0>()
        r = Sqrt(f)
        scale = Div(one, r)
        y = Mul(q, scale)
    }""")
    x = np.ones((2, 16), np.float32)
    pass_table.run(model, FOLD, check=True)
    assert ops(model) == {"Mul": 1}
    assert np.array_equal(evaluate(model, [x])[0], np.full((2, 16), 0.25, np.float32))


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(x)",
        "y = Cast<to=1>(x)",
        "y = Transpose<perm=[0,1,2]>(x)",
        "a = Transpose<perm=[1,0,2]>(x)\n y = Transpose<perm=[1,0,2]>(a)",
        "o = Constant<value_float=1.0>()\n y = Div(x, o)",
        "o = Constant<value_float=0.0>()\n y = Add(x, o)",
        "a = Constant<value_ints=[0]>()\n b = Constant<value_ints=[9223372036854775807]>()\n"
        "y = Slice(x, a, b, a)",
        "y = Concat<axis=1>(x)",
        "a = Constant<value_ints=[1]>()\n u = Unsqueeze(x, a)\n y = Squeeze(u, a)",
    ],
)
def test_what_does_nothing_goes(body: str) -> None:
    model = parse("(float[N,4,5] w) => (float[N,4,5] z) { x = Relu(w)\n" + body + "\n z = Neg(y) }")
    pass_table.run(model, FOLD, check=True)
    assert ops(model) == {"Relu": 1, "Neg": 1}


@pytest.mark.parametrize(
    "body",
    [
        "o = Constant<value_floats=[1.0,1.0]>()\n y = Mul(x, o)",  # it broadcasts
        "o = Constant<value_float=1.0>()\n y = Div(o, x)",
        "o = Constant<value_float=0.0>()\n y = Sub(o, x)",
        "a = Constant<value_ints=[0]>()\n b = Constant<value_ints=[3]>()\n y = Slice(x, a, b, a)",
    ],
)
def test_what_only_looks_idle_stays(body: str) -> None:
    model = parse("(float[N,1] w) => (float[A,B] z) { x = Relu(w)\n" + body + "\n z = Neg(y) }")
    x = np.arange(1, 6, dtype=np.float32).reshape(5, 1)
    want = evaluate(model, [x])
    pass_table.run(model, FOLD)
    assert error(evaluate(model, [x]), want) == 0


def test_graph_output_keeps_its_name_when_its_node_goes() -> None:
    model = parse("(float[N,4] x) => (float[N,4] y) { a = Relu(x)\n y = Identity(a) }")
    pass_table.run(model, FOLD, check=True)
    assert [v.name for v in model.graph.outputs] == ["y"] and ops(model) == {"Relu": 1}


def test_an_input_that_is_an_output_stays_behind_an_identity() -> None:
    model = parse("(float[N,4] x) => (float[N,4] y) { y = Cast<to=1>(x) }")
    pass_table.run(model, FOLD, check=True)
    assert ops(model) == {"Identity": 1} and model.graph.outputs[0].name == "y"


def test_a_result_that_is_a_constant_has_its_name_alone() -> None:
    model = parse("""(float[N] x) => (float[2] y, float[N] z) {
        a = Constant<value_floats=[1.0, 2.0]>()
        y = Neg(a)
        z = Neg(x)
    }""")
    pass_table.run(model, FOLD, check=True)
    assert ops(model) == {"Identity": 1, "Neg": 1}
    names = [*model.graph.initializers, *(value.name for node in model.graph for value in node.outputs)]
    assert len(names) == len(set(names)) and [value.name for value in model.graph.outputs] == ["y", "z"]
    assert evaluate(model, [np.zeros(1, np.float32)])[0].tolist() == [-1.0, -2.0]


def test_linear_transpose_becomes_a_step_of_its_unread_weight() -> None:
    model = parse(
        "(float[N,4] x, float[3,4] w) => (float[N,3] y) { t = Transpose<perm=[1,0]>(w)\n y = MatMul(x, t) }"
    )
    ghost(model, w=(3, 4))
    pass_table.run(model, check=True)  # the file does not exist: reading it would raise
    weight = model.graph.initializers["w"].const_value
    assert ops(model) == {"MatMul": 1}
    assert isinstance(weight, WeightRef) and weight.transforms == (Transpose((1, 0)),)


def test_split_slice_reshape_and_concat_of_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in (("w", (4, 6)), ("u", (4, 2)), ("v", (4, 3)))
    }
    model = parse("""(float[N,4] x, float[4,6] w, float[4,2] u, float[4,3] v)
        => (float[N,2] a, float[N,4] b, float[N,5] c, float[N,3] d) {
        l = Constant<value_ints=[2,4]>()
        p, q = Split<axis=1>(w, l)
        j = Concat<axis=1>(u, v)
        s = Constant<value_ints=[1]>()
        e = Constant<value_ints=[4]>()
        k = Slice(w, s, e, s)
        a = MatMul(x, p)
        b = MatMul(x, q)
        c = MatMul(x, j)
        d = MatMul(x, k)
    }""")
    bind(model, tmp_path, **arrays)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    want = evaluate(model, [x])
    pass_table.run(model, FOLD, check=True)
    assert ops(model) == {"MatMul": 4}
    refs = [v.const_value for v in model.graph.initializers.values()]
    assert all(isinstance(r, WeightRef) for r in refs)
    assert sum(isinstance(r.source, Joined) for r in refs if isinstance(r, WeightRef)) == 1
    assert Slice(1, 2, 6) in {t for r in refs if isinstance(r, WeightRef) for t in r.transforms}
    assert error(evaluate(model, [x]), want) < 1e-6


def test_a_large_weight_with_two_layouts_is_not_stored_twice() -> None:
    model = parse("""(int64[N] i, float[N,64] x, float[1024,64] w) => (float[N,64] e, float[N,1024] y) {
        e = Gather(w, i)
        t = Transpose<perm=[1,0]>(w)
        y = MatMul(x, t)
    }""")
    ghost(model, w=(1024, 64))
    pass_table.run(model, check=True)
    assert len(model.graph.initializers) == 1 and ops(model)["Transpose"] == 1


def test_sequences_become_splits() -> None:
    model = parse("""(float[N,7] x) => (float[N,4] a, float[N,3] b) {
        n = Constant<value=int64 {4}>()
        zero = Constant<value=int64 {0}>()
        one = Constant<value=int64 {1}>()
        s = SplitToSequence<axis=1>(x, n)
        a = SequenceAt(s, zero)
        b = SequenceAt(s, one)
    }""")
    x = np.arange(14, dtype=np.float32).reshape(2, 7)
    want = evaluate(model, [x])
    pass_table.run(model, FOLD, check=True)
    assert ops(model) == {"Split": 1}
    assert error(evaluate(model, [x]), want) == 0


def test_constants_beyond_the_limit_are_not_made() -> None:
    model = parse("""() => (float[1000,1000] y) {
        o = Constant<value_float=1.0>()
        s = Constant<value_ints=[1000,1000]>()
        y = Expand(o, s)
    }""")
    pass_table.run(model, FOLD, check=True)
    assert ops(model) == {"Expand": 1}
    assert all(
        v.const_value is not None and v.const_value.size < 10 for v in model.graph.initializers.values()
    )


def test_random_nodes_are_neither_folded_nor_merged() -> None:
    model = parse("""() => (float[4] y) {
        a = RandomNormal<shape=[4]>()
        b = RandomNormal<shape=[4]>()
        y = Sub(a, b)
    }""")
    pass_table.run(model)
    assert ops(model)["RandomNormal"] == 2


def test_booleans_are_selected_by_logic() -> None:
    model = parse("""(float[N,3] x, float[3] y, float[N,1] z) => (bool[N,3] out) {
        zero = Constant<value_float=0.0>()
        a = Greater(x, zero)
        b = Greater(y, zero)
        condition = Greater(z, zero)
        out = Where(condition, a, b)
    }""")
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((64, 3), (3,), (64, 1))]
    a, b, condition = (values > 0 for values in inputs)
    pass_table.run(model, FOLD, check=True)
    assert ops(model)["Where"] == 0
    # The reference that passes are held to is ONNX Runtime, which cannot open the graph as it was.
    np.testing.assert_array_equal(evaluate(model, inputs)[0], np.where(condition, a, b))


def test_integer_division_rounds_towards_zero() -> None:
    model = parse("""(float[N] x) => (int64[1] y) {
        a = Constant<value_ints=[-7]>()
        b = Constant<value_ints=[2]>()
        q = Div(a, b)
        y = Identity(q)
    }""")
    pass_table.run(model, FOLD)
    assert evaluate(model, [np.zeros(1, np.float32)])[0].tolist() == [-3]


def test_cse_merges_equal_chains_and_tied_weights() -> None:
    model = parse("""(float[N,4] x, float[4,4] w, float[4,4] v) => (float[N,4] y) {
        a = MatMul(x, w)
        b = MatMul(x, v)
        c = Relu(a)
        d = Relu(b)
        y = Sub(c, d)
    }""")
    ghost(model, w=(4, 4), v=(4, 4))
    first, second = model.graph.initializers["w"], model.graph.initializers["v"]
    assert isinstance(first.const_value, WeightRef)
    second.const_value = WeightRef(first.const_value.source, (), "v")
    pass_table.run(model, ("cse",), check=True)
    assert ops(model) == {"MatMul": 1, "Relu": 1, "Sub": 1} and list(model.graph.initializers) == ["w"]


def test_inline_and_dead() -> None:
    import onnx

    model = ir.from_proto(
        onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[N] x) => (float[N] y) { y = local.twice(x)\n unused = Relu(x) }
        <domain: "local", opset_import: ["" : 21]> twice (a) => (b) { b = Add(a, a) }""")
    )
    pass_table.run(model, ("inline", "dead"), check=True)
    assert ops(model) == {"Add": 1} and not model.functions and set(model.opset_imports) == {""}
