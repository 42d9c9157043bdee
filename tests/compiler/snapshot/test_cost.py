"""FLOPs, bytes and shapes of single operators at given sizes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest

from compiler.snapshot import cost
from targets.graph.dims import static
from tests.compiler.passes.graphs import parse


def only(body: str, **sizes: int) -> ir.Node:
    """The last node of a graph at these sizes."""
    return list(cost.at_sizes(parse(body), sizes).graph)[-1]


@pytest.mark.parametrize(
    ("body", "shape", "flops"),
    [
        ("(float[B,8,H] a, float[B,H,5] b) => (float[B,8,5] y) { y = MatMul(a, b) }", (3, 8, 5), 2 * 3 * 8 * 5 * 4),
        ("(float[B,4] a, float[6,4] b) => (float[B,6] y) { y = Gemm<transB=1>(a, b) }", (3, 6), 2 * 3 * 6 * 4),
        (
            "(float[B,4,H,H] a, float[6,2,3,3] b) => (float[B,6,C,C] y)"
            " { y = Conv<group=2, pads=[1,1,1,1], strides=[2,2]>(a, b) }",
            (3, 6, 2, 2),
            2 * 3 * 6 * 2 * 2 * 2 * 9,
        ),
        (
            "(float[B,4,H,H] a, float[4,6,2,2] b) => (float[B,6,C,C] y) { y = ConvTranspose<strides=[2,2]>(a, b) }",
            (3, 6, 8, 8),
            2 * 3 * 4 * 16 * 6 * 4,
        ),
        ('(float[B,H] a, float[H,5] b) => (float[B,5] y) { y = Einsum<equation="ij,jk->ik">(a, b) }', (3, 5), 120),
        ("(float[B,4,H,H] a) => (float[B,4,C,C] y) { y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(a) }",
         (3, 4, 1, 1), 0),
        ("(float[B,H] a) => (float[B,H] y) { y = Neg(a) }", (3, 4), 0),
    ],
)  # fmt: skip
def test_operators_at_sizes(body, shape, flops):
    node = only(body, B=3, H=4)
    assert static(node.outputs[0]) == shape
    assert cost.flops(node) == flops
    assert cost.written(node) == 4 * np.prod(shape)


def test_the_shapes_are_those_that_onnx_computes():
    body = """(float[B,4,H,H] a, float[8,4,3,3] b, float[8] s) => (float[B,8,C,C] y) {
        c = Conv<pads=[1,1,1,1]>(a, b)
        n = GroupNormalization<num_groups=2>(c, s, s)
        f = Constant<value_floats=[1.0, 1.0, 2.0, 2.0]>()
        r = Resize<mode="nearest">(n, , f)
        y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(r)
    }"""
    model = parse(body)
    given = {"a": np.zeros((2, 4, 5, 5)), "b": np.zeros((8, 4, 3, 3)), "s": np.zeros(8)}
    arrays = {name: array.astype(np.float32) for name, array in given.items()}
    names = ["c", "n", "r", "y"]
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(n, 1, None) for n in names)
    results = onnx.reference.ReferenceEvaluator(proto).run(names, arrays)
    found = {v.name: static(v) for n in cost.at_sizes(model, {"B": 2, "H": 5}).graph for v in n.outputs}
    assert {name: found[name] for name in names} == {n: r.shape for n, r in zip(names, results, strict=True)}


def test_a_size_that_nobody_gave_costs_nothing():
    node = only("(float[B,H] a, float[H,5] b) => (float[B,5] y) { y = MatMul(a, b) }", B=3)
    assert (cost.flops(node), cost.written(node)) in {(0, 60), (0, 0)}


def test_views_write_nothing():
    node = only(
        "(float[B,H] a) => (float[B,H,1] y) { k = Constant<value_ints=[2]>() y = Unsqueeze(a, k) }", B=3, H=4
    )
    assert cost.written(node) == 0


def test_what_is_made_of_constants_alone_is_none_of_the_call():
    node = only("(float[B,4] a) => (float16[2] y) <float[2] w = {1, 2}> { y = Cast<to=10>(w) }", B=3)
    assert cost.written(node) == 0


def test_what_is_not_known_is_told():
    body = """(float[B,4] a, float[4,5] w) => (float[N,5] y) {
        places = NonZero(a)
        turned = Transpose(places)
        index = Cast<to=1>(turned)
        k = Constant<value_ints=[-1, 4]>()
        b = Reshape(index, k)
        y = MatMul(b, w)
    }"""
    graph = cost.at_sizes(parse(body), {"B": 3}).graph
    unknown = [node.op_type for node in graph if cost.unknown(node)]
    assert unknown == ["NonZero", "Transpose", "Cast", "Reshape", "MatMul"]
    assert cost.flops(list(graph)[-1]) == 0
    assert not cost.unknown(only("(float[B,4] a, float[4,5] w) => (float[B,5] y) { y = MatMul(a, w) }", B=3))
