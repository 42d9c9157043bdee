"""Known patterns in the forms that exporters write them, and what only looks like one."""

from __future__ import annotations

from collections import Counter

import pytest

from compiler.snapshot.patterns import matches
from tests.compiler.passes.graphs import parse

HEAD = "(float[2,8,8] x, float[2,8,8] z, float[8] s) => (float[2,8,8] y)"

BODIES = {
    "attention": "{ k = Transpose<perm=[0,2,1]>(z) a = MatMul(x, k) m = Add(a, z) p = Softmax(m) y = MatMul(p, z) }",
    "attention without a mask": "{ a = MatMul(x, z) p = Softmax(a) y = MatMul(p, z) }",
    "GEGLU": "{ a, b = Split<num_outputs=2, axis=0>(x) g = Gelu(b) y = Mul(a, g) }",
    "GEGLU in pieces": "{ a, b = Split<num_outputs=2, axis=0>(x) e = Erf(b) o = Add(e, s) h = Mul(b, o)"
    " y = Mul(a, h) }",
    "SwiGLU": "{ a = MatMul(x, z) b = MatMul(z, x) g = Sigmoid(b) h = Mul(b, g) y = Mul(a, h) }",
    "group norm + SiLU": "{ n = GroupNormalization<num_groups=2>(x, s, s) g = Sigmoid(n) y = Mul(n, g) }",
    "RMS norm": "{ e = Constant<value_float=2.0>() q = Pow(x, e) m = ReduceMean(q) a = Add(m, e) r = Sqrt(a)"
    " i = Reciprocal(r) n = Mul(x, i) y = Mul(n, s) }",
    "rotary embedding": "{ a, b = Split<num_outputs=2, axis=2>(x) n = Neg(b) t = Concat<axis=2>(n, a)"
    " c = Mul(x, z) d = Mul(t, s) y = Add(c, d) }",
}

OTHERS = {
    "a softmax alone": "{ p = Softmax(x) y = Mul(p, z) }",
    "a softmax of a product that goes nowhere": "{ a = MatMul(x, z) y = Softmax(a) }",
    "GELU without a gate": "{ a = MatMul(x, z) g = Gelu(a) y = Mul(g, s) }",
    "SiLU without a norm": "{ g = Sigmoid(x) y = Mul(x, g) }",
    "a norm without SiLU": "{ n = GroupNormalization<num_groups=2>(x, s, s) y = Mul(n, z) }",
    "a sum of products": "{ c = Mul(x, z) d = Mul(z, s) y = Add(c, d) }",
}


def counted(body: str) -> Counter[str]:
    return Counter(name for name, _ in matches(parse(f"{HEAD} {body}").graph))


@pytest.mark.parametrize("name", BODIES)
def test_a_pattern_is_found_once_and_no_other(name):
    wanted = next(p for p in ("attention", "GEGLU", *BODIES) if name.startswith(p))
    assert counted(BODIES[name]) == {wanted: 1}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_one_is_not(name):
    assert not counted(OTHERS[name])
