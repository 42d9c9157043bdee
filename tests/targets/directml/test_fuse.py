"""Fused operators beside what they stand for, in fp32: DirectML is not here, so the CPU's kernels play its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from targets.directml.fuse import fuse
from targets.directml.kernel_coverage import coverage
from targets.graph.onnx_files import infer_shapes
from targets.target_contract import unchanged
from tests.compiler.passes.graphs import error, evaluate, ops, parse

CONSTANTS = """
    heads = Constant <value_ints = [2, 6, 4, 8]> ()
    back = Constant <value_ints = [2, 6, 32]> ()
    scale = Constant <value_float = 0.3> ()
"""

Q = """
    q4 = Reshape(q, heads)
    q5 = Transpose <perm = [0, 2, 1, 3]> (q4)
    qs = Mul(q5, scale)
"""
V = """
    v4 = Reshape(v, heads)
    v5 = Transpose <perm = [0, 2, 1, 3]> (v4)
"""
K = """
    k4 = Reshape(k, heads)
    k5 = Transpose <perm = [0, 2, 3, 1]> (k4)
"""
END = """
    o = MatMul(p, v5)
    o4 = Transpose <perm = [0, 2, 1, 3]> (o)
    y = Reshape(o4, back)
"""
PLAIN = "s = MatMul(qs, k5) p = Softmax(s)"
HEADER = "(float[2,6,32] q, float[2,6,32] k, float[2,6,32] v{more}) => (float[2,6,32] y)"


class GroupNorm(OpRun):
    """com.microsoft's, as ONNX Runtime documents it."""

    op_domain = "com.microsoft"

    def _run(
        self,
        x: np.ndarray,
        gamma: np.ndarray,
        beta: np.ndarray,
        activation: int | None = None,
        channels_last: int | None = None,
        epsilon: float | None = None,
        groups: int | None = None,
    ) -> tuple[np.ndarray]:
        assert channels_last == 1 and groups is not None and epsilon is not None
        batch, height, width, channels = x.shape
        split = x.reshape(batch, height * width, groups, channels // groups)
        mean, var = split.mean((1, 3), keepdims=True), split.var((1, 3), keepdims=True)
        out = ((split - mean) / np.sqrt(var + epsilon)).reshape(x.shape) * gamma + beta
        return (out / (1 + np.exp(-out)) if activation else out,)


def made(text: str) -> ir.Model:
    """The graph with its constants as initializers, as the compiler leaves them."""
    model = parse(text)
    for node in list(model.graph):
        if node.op_type != "Constant":
            continue
        (attribute,) = node.attributes.values()
        floats = attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS)
        tensor = ir.Tensor(np.array(attribute.value, np.float32 if floats else np.int64))
        value = node.outputs[0]
        new = ir.Value(
            name=value.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
        )
        ir.convenience.replace_all_uses_with(value, new)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(new)
    return infer_shapes(model, unchanged)


def fused(text: str) -> tuple[ir.Model, ir.Model]:
    model = made(text)
    copy = model.clone()
    fuse(copy)
    assert coverage(copy).fallbacks == ()
    return model, copy


def feeds(model: ir.Model) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(v.shape.numpy(), dtype=np.float32) for v in model.graph.inputs if v.shape]


def reference(model: ir.Model, given: Sequence[np.ndarray]) -> list[np.ndarray]:
    named = {str(v.name): array for v, array in zip(model.graph.inputs, given, strict=True)}
    return list(ReferenceEvaluator(ir.to_proto(model), new_ops=[GroupNorm]).run(None, named))


@pytest.mark.parametrize(
    ("q", "k", "middle", "more", "expected"),
    [
        (Q, K, PLAIN, "", {"MultiHeadAttention": 1}),
        (
            Q, "k4 = Reshape(k, heads) k3 = Transpose <perm = [0, 2, 1, 3]> (k4)"
            "k5 = Transpose <perm = [0, 1, 3, 2]> (k3)", PLAIN, "",
            {"MultiHeadAttention": 1},
        ),
        (
            "q4 = Reshape(q, heads) q5 = Transpose <perm = [0, 2, 1, 3]> (q4) q6 = Sin(q5) qs = Mul(scale, q6)",
            K, PLAIN, "",
            {"MultiHeadAttention": 1, "Reshape": 2, "Transpose": 2, "Sin": 1},
        ),
        (
            Q, K, "s = MatMul(qs, k5) a = Add(s, m) p = Softmax <axis = 3> (a)", ", float[2,4,6,6] m",
            {"MultiHeadAttention": 1},
        ),
        (
            Q, K, "s = MatMul(qs, k5) a = Add(m, s) p = Softmax(a)", ", float[1,1,1,6] m",
            {"MultiHeadAttention": 1, "Expand": 1},
        ),
    ],
    ids=["plain", "keys turned twice", "rotary", "bias", "mask"],
)  # fmt: skip
def test_attention(q: str, k: str, middle: str, more: str, expected: dict[str, int]) -> None:
    model, found = fused(f"{HEADER.format(more=more)} {{ {CONSTANTS} {q} {k} {V} {middle} {END} }}")
    assert ops(found) == expected
    given = feeds(model)
    assert error(evaluate(found, given), evaluate(model, given)) < 1e-5


def test_layers_share_one_full_mask() -> None:
    again = """
        b = Reshape(y0, heads) b5 = Transpose <perm = [0, 2, 1, 3]> (b)
        t = MatMul(b5, k5) u = Add(t, m) w = Softmax(u) z = MatMul(w, v5)
        z4 = Transpose <perm = [0, 2, 1, 3]> (z) y = Reshape(z4, back)
    """
    middle = "s = MatMul(qs, k5) a = Add(s, m) p = Softmax(a)"
    text = f"{Q} {K} {V} {middle} {END.replace('y =', 'y0 =')} {again}"
    model, found = fused(f"{HEADER.format(more=', float[1,1,6,6] m')} {{ {CONSTANTS} {text} }}")
    assert ops(found) == {"MultiHeadAttention": 2, "Expand": 1}
    given = feeds(model)
    assert error(evaluate(found, given), evaluate(model, given)) < 1e-5


def test_a_mask_below_fp16_keeps_the_attention_whole() -> None:
    """As the precision pass leaves it: the addition is in fp32, as the mask's numbers are."""
    middle = (
        "s = MatMul(qs, k5) s32 = Cast <to = 1> (s) a = Add(s32, m) a16 = Cast <to = 10> (a) p = Softmax(a16)"
    )
    inputs = "float16[2,6,32] q, float16[2,6,32] k, float16[2,6,32] v, float[1,1,6,6] m"
    constants = CONSTANTS.replace("scale =", "scale32 =") + "scale = Cast <to = 10> (scale32)"
    text = f"({inputs}) => (float16[2,6,32] y) {{ {constants} {Q} {K} {V} {middle} {END} }}"
    _, found = fused(text)
    assert {n: c for n, c in ops(found).items() if n not in ("Mul", "Cast")} == {
        "MultiHeadAttention": 1, "Clip": 1, "Expand": 1, "Reshape": 2, "Transpose": 2,
    }  # fmt: skip
    (expand,) = [n for n in found.graph if n.op_type == "Expand"]
    assert expand.outputs[0].dtype == ir.DataType.FLOAT16
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((2, 6, 32)).astype(np.float16) for _ in range(3)]
    given.append(np.where(np.tri(6, dtype=bool), 0, -3.4e38).astype(np.float32)[None, None])
    clipped = next(n for n in found.graph if n.op_type == "Clip").outputs[0]
    found.graph.outputs[:] = [clipped]
    assert evaluate(found, given)[0].min() == np.finfo(np.float16).min


@pytest.mark.parametrize(
    "middle",
    [
        "s = MatMul(qs, k5) p = Softmax <axis = 2> (s)",
        "s = MatMul(qs, k5) p0 = Softmax(s) p = Mul(p0, scale)",
        "s = MatMul(qs, k5) e = Relu(s) p = Softmax(e)",
    ],
)
def test_what_is_no_attention_stays(middle: str) -> None:
    model, found = fused(f"{HEADER.format(more='')} {{ {CONSTANTS} {Q} {K} {V} {middle} {END} }}")
    assert ops(found) == ops(model)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Gelu(x)", {"Gelu": 1}),
        ('y = Gelu <approximate = "tanh"> (x)', {"FastGelu": 1}),
        ("b = Add(w, x) y = Gelu(b)", {"BiasGelu": 1}),
        ("b = Add(x, w) g = Gelu(b) y = Mul(g, b)", {"Add": 1, "Gelu": 1, "Mul": 1}),
    ],
)
def test_gelu(body: str, expected: dict[str, int]) -> None:
    weight = "w = Constant <value_floats = [0.5, -1.0, 2.0, 0.0]> ()"
    model, found = fused(f"(float[2,3,4] x) => (float[2,3,4] y) {{ {weight if 'w' in body else ''} {body} }}")
    assert ops(found) == expected
    given = feeds(model)
    # The tanh form of the CPU's FastGelu and of the standard are the same.
    assert error(evaluate(found, given), evaluate(model, given)) < 1e-5


@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_of_a_picture(silu: bool) -> None:
    name = "n" if silu else "y"
    body = f"{name} = GroupNormalization <num_groups = 4, epsilon = 0.001> (x, g, b)"
    body += " a = Sigmoid(n) y = Mul(n, a)" if silu else ""
    model, found = fused(f"(float[2,8,3,5] x, float[8] g, float[8] b) => (float[2,8,3,5] y) {{ {body} }}")
    assert ops(found) == {"GroupNorm": 1, "Transpose": 2}
    assert found.graph.outputs[0].name == "y"
    given = feeds(model)
    assert error(reference(found, given), reference(model, given)) < 1e-5


def test_a_silu_that_others_read_too_is_no_activation() -> None:
    body = "n = GroupNormalization <num_groups = 4> (x, g, b) a = Sigmoid(n) m = Mul(n, a) y = Add(m, n)"
    model, found = fused(f"(float[2,8,3,5] x, float[8] g, float[8] b) => (float[2,8,3,5] y) {{ {body} }}")
    assert ops(found) == {"GroupNorm": 1, "Transpose": 2, "Sigmoid": 1, "Mul": 1, "Add": 1}
    given = feeds(model)
    assert error(reference(found, given), reference(model, given)) < 1e-5


def test_group_norm_of_rows_is_standard() -> None:
    body = "y = GroupNormalization <num_groups = 2, epsilon = 0.01> (x, g, b)"
    model, found = fused(f"(float[2,8,15] x, float[8] g, float[8] b) => (float[2,8,15] y) {{ {body} }}")
    assert "GroupNormalization" not in ops(found) and ops(found)["InstanceNormalization"] == 1
    found.graph.opset_imports[""] = 20
    onnx.checker.check_model(ir.to_proto(found), full_check=True)
    given = feeds(model)
    assert error(evaluate(found, given), evaluate(model, given)) < 1e-5


def test_new_nodes_keep_their_module() -> None:
    model = made("(float[2,4] x) => (float[2,4] y) { y = Gelu(x) }")
    model.graph[0].metadata_props["latentc.module"] = "ff"
    fuse(model)
    (node,) = model.graph
    assert node.metadata_props["latentc.module"] == "ff"
