"""The schemes' arithmetic on any weights: bounds that hold for every element, and what is exact stays exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import LatentcError
from compiler.quantize import scheme_table
from compiler.quantize.blocks import spread
from compiler.quantize.decide import decide, spare_small
from compiler.quantize.find import Layout, find
from compiler.quantize.low_rank import split
from compiler.quantize.nf4 import TABLE
from compiler.quantize.stream import Scratch, quantize
from tests.compiler.passes.graphs import bind, parse

# Scales are rounded to fp16 and arithmetic is fp32's.
SLACK = 1 + 2**-9

SPECS = [
    ("int8", {}),
    ("int8", {"asymmetric": True}),
    *(
        ("int4", {"group": g, "asymmetric": a, "scale": s})
        for g in (32, 64)
        for a in (False, True)
        for s in ("mse", "max")
    ),
    ("int4", {"positive": True, "scales": "fp32"}),
    ("nf4", {}),
]


@st.composite
def weights(draw: st.DrawFn, inner: int = 128) -> np.ndarray:
    """float32 [rows, 128] of any size, with zero rows, zero blocks, constants and outliers among them."""
    rows = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    exponent = draw(st.sampled_from([-30, -12, -4, 0, 4, 15, 30]))
    array = rng.standard_normal((rows, inner)) * 10.0**exponent
    kind = draw(st.sampled_from(["normal", "zero rows", "zero blocks", "constant", "outliers", "one side"]))
    if kind == "zero rows":
        array[::2] = 0
    elif kind == "zero blocks":
        array[:, 32:96] = 0
    elif kind == "constant":
        array[:] = array[:, :1]
    elif kind == "outliers":
        array[:, 7] *= 1000
    elif kind == "one side":
        array = np.abs(array) + 10.0**exponent
    return array.astype(np.float32)


@pytest.mark.parametrize(("name", "given_options"), SPECS)
@settings(max_examples=40, deadline=None)
@given(rows=weights())
def test_errors_are_bounded_by_the_grid(name, given_options, rows):
    scheme, options = scheme_table.get(name), scheme_table.options(name, given_options)
    blocks = scheme.quantize(rows, options)
    restored = scheme.dequantize(blocks, options)
    assert restored.dtype == np.float32 and np.isfinite(restored).all()
    size = scheme.format(options).block or rows.shape[1]
    cut = rows.reshape(-1, size).astype(np.float64)
    error = np.abs(restored.reshape(-1, size) - cut)
    top = np.abs(cut).max(axis=1, keepdims=True)
    span = np.maximum(cut.max(axis=1, keepdims=True), 0) - np.minimum(cut.min(axis=1, keepdims=True), 0)
    tiny = np.finfo(np.float32).tiny * 4
    if name == "int8":
        bound = span / 255 / 2 * 2 if options.asymmetric else top / 127 / 2
        assert (error <= bound * SLACK + tiny).all()
    elif name == "nf4":
        widest = np.diff(TABLE).max() / 2
        assert (error <= top * widest * SLACK + tiny).all()
    else:
        # Whatever the search picks is no worse in square than the plain grid, whose step is this.
        step = span / 15 if options.asymmetric else top / (7 if options.positive else 8)
        plain = step if options.asymmetric else np.where(options.positive, step / 2, step)
        assert (np.sqrt((error**2).sum(1)) <= np.sqrt(size) * plain[:, 0] * SLACK + tiny).all()
    zero = ~cut.any(axis=1)
    assert not restored.reshape(-1, size)[zero].any()


@settings(max_examples=30, deadline=None)
@given(rows=weights())
@pytest.mark.parametrize("asymmetric", [False, True])
def test_the_search_is_never_worse_than_the_largest_element(asymmetric, rows):
    def error(scale: str) -> np.ndarray:
        options = scheme_table.options("int4", {"asymmetric": asymmetric, "scale": scale})
        scheme = scheme_table.get("int4")
        restored = scheme.dequantize(scheme.quantize(rows, options), options).astype(np.float64)
        return ((restored - rows) ** 2).reshape(-1, 64).sum(1)

    assert (error("mse") <= error("max") * (1 + 1e-5) + 1e-300).all()


def test_the_search_gains_on_normal_weights():
    rows = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    found = {}
    for scale in ("mse", "max"):
        options = scheme_table.options("int4", {"scale": scale})
        restored = scheme_table.get("int4").dequantize(
            scheme_table.get("int4").quantize(rows, options), options
        )
        found[scale] = float(np.linalg.norm(restored - rows) / np.linalg.norm(rows))
    assert found["mse"] < 0.092 < 0.094 < found["max"]


@pytest.mark.parametrize(("name", "given_options"), SPECS)
def test_what_lies_on_the_grid_comes_back_exactly(name, given_options):
    scheme, options = (
        scheme_table.get(name),
        scheme_table.options(name, given_options | ({"scale": "max"} if name == "int4" else {})),
    )
    rng = np.random.default_rng(1)
    size = scheme.format(options).block or 128
    if name == "nf4":
        levels = np.arange(16).repeat(4)[:64].astype(np.uint8)
        rows = np.tile(TABLE[levels] * np.float32(0.5), (3, 2))
    else:
        low, high = {"int8": (0, 255) if options_of(options, "asymmetric") else (-127, 127)}.get(
            name, (0, 15) if options_of(options, "asymmetric") else (-8, 7)
        )
        if options_of(options, "positive"):
            low = -7
        values = rng.integers(low, high + 1, (3, 128 // size, size)).astype(np.float32)
        values[..., 0], values[..., 1] = low, high
        shift = 100 if name == "int8" else 6
        rows = ((values - (shift if options_of(options, "asymmetric") else 0)) * np.float32(2**-6)).reshape(
            3, 128
        )
    restored = scheme.dequantize(scheme.quantize(rows, options), options)
    assert np.array_equal(restored, rows)


def options_of(options: object, name: str) -> bool:
    return bool(getattr(options, name, False))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
def test_nan_and_infinity_are_refused_by_key(bad, scheme, tmp_path):
    array = np.ones((64, 64), np.float32)
    array[63, 5] = bad
    model = bind(
        parse("(float[2,64] x, float[64,64] w) => (float[2,64] y) { y = MatMul(x, w) }"), tmp_path, w=array
    )
    (found,) = find(model)
    decision = decide(scheme, scheme_table.options(scheme, {}), found.layout)
    with pytest.raises(LatentcError, match=r"the weight 'w' is not finite: .* in 1 of its 4,096"):
        quantize(found, decision, Scratch(tmp_path / "s"))


def test_a_mask_that_may_be_stored_is_not_quantized(tmp_path):
    array = np.zeros((64, 64), np.float32)
    array[63, 5] = -np.inf
    model = bind(
        parse("(float[2,64] x, float[64,64] w) => (float[2,64] y) { y = MatMul(x, w) }"), tmp_path, w=array
    )
    (found,) = find(model)
    decision = decide("int8", scheme_table.options("int8", {}), found.layout)
    with pytest.raises(LatentcError, match=r"'w' holds NaN or infinity.*\n.*match = \"w\""):
        quantize(found, decision, Scratch(tmp_path / "s"))


@pytest.mark.parametrize(
    ("scheme", "kind", "shape", "becomes", "why"),
    [
        ("int4", "linear", (64, 128), "int4:group=64", ""),
        ("int4", "linear", (64, 96), "int4:group=32", "group 32: 96 inputs are no multiple of 64"),
        ("int4", "linear", (64, 32), "int4:group=32", "group 32: 32 inputs are no multiple of 64"),
        ("int4", "linear", (64, 36), "int8", "int8: 36 inputs are no multiple of 32"),
        ("int4", "conv", (32, 4, 3, 3), "int8", "int8: 36 inputs are no multiple of 32"),
        ("int4", "conv", (64, 64, 3, 3), "int4:group=64", ""),
        ("int4", "transposed conv", (64, 64, 2, 2), "int8", "int8: a transposed convolution"),
        (
            "int4",
            "conv",
            (4, 64, 3, 3),
            "int8",
            "int8: 64 inputs to 4 outputs: errors there are not averaged",
        ),
        ("nf4", "linear", (64, 512), "int8", "int8: 512 inputs to 64 outputs: errors there are not averaged"),
        ("nf4", "linear", (64, 128), "nf4", ""),
        ("nf4", "linear", (64, 96), "int8", "int8: 96 inputs are no multiple of 64"),
        ("nf4", "conv", (64, 64, 1, 1), "int8", "int8: no runtime reads nf4 in a convolution"),
        ("nf4", "embedding", (512, 64), "int8", "int8: no runtime reads nf4 in an embedding"),
        ("int8", "linear", (1, 1024), "int8", ""),
    ],
)
def test_what_does_not_fit_falls_back_and_says_so(scheme, kind, shape, becomes, why):
    decision = decide(scheme, scheme_table.options(scheme, {}), Layout(kind, shape, 0))
    assert (decision.label, decision.note) == (becomes, why)


def test_a_correction_that_costs_more_than_the_weight_is_refused():
    options = scheme_table.options("int4", {"low_rank": 16})
    assert decide("int4", options, Layout("linear", (128, 128), 0)).low_rank == 16
    small = decide("int4", options, Layout("linear", (64, 64), 0))
    assert (small.low_rank, small.note) == (0, "no low rank: 64x64 is too small for rank 16")
    assert decide("int4", options, Layout("embedding", (512, 512), 0)).note == "no low rank: an embedding"
    assert decide("int4", options, Layout("conv", (512, 512, 1), 0, groups=2)).low_rank == 0


def test_the_low_rank_part_is_the_best_one():
    rng = np.random.default_rng(2)
    exact = (rng.standard_normal((96, 4)) @ rng.standard_normal((4, 80))).astype(np.float32)
    left, right = split(exact, 4)
    assert (left.shape, right.shape, left.dtype) == ((96, 4), (4, 80), np.float16)
    assert np.linalg.norm(left.astype(np.float32) @ right - exact) < 2e-3 * np.linalg.norm(exact)
    full = rng.standard_normal((96, 80)).astype(np.float32)
    left, right = split(full, 8)
    best = np.sqrt((np.linalg.svd(full, compute_uv=False)[8:] ** 2).sum())
    assert np.linalg.norm(left.astype(np.float32) @ right - full) < best * 1.03


def test_bytes_are_what_the_bits_say():
    layout = Layout("linear", (256, 128), 0)
    count = 256 * 128
    for name, options, bits in [
        ("int8", {}, 8 + 32 / 128),
        ("int4", {}, 4 + 16 / 64),
        ("int4", {"group": 32}, 4 + 16 / 32),
        ("int4", {"asymmetric": True}, 4 + 20 / 64),
        ("int4", {"scales": "fp32"}, 4 + 32 / 64),
        ("int4", {"low_rank": 8}, 4.25 + 16 * 8 * (256 + 128) / count),
        ("nf4", {}, 4 + 16 / 64),
    ]:
        decision = decide(name, scheme_table.options(name, options), layout)
        assert decision.bytes(layout) * 8 == count * bits


def test_scales_spread_over_their_blocks():
    assert spread(np.array([[1, 2]]), 6).tolist() == [[1, 1, 1, 2, 2, 2]]


def test_the_smallest_weights_stay_at_int8():
    layout = Layout("linear", (256, 128), 0)
    decisions = [
        (size, decide(scheme, scheme_table.options(scheme, {"small": 3}), layout))
        for size, scheme in [(9_000, "int4"), (100, "int4"), (150, "int4"), (60, "int8"), (60, "int4")]
    ]
    schemes = [decision.name for decision in spare_small(decisions)]
    assert schemes == ["int4", "int8", "int4", "none", "int8"]
    assert "3% of the parameters" in spare_small(decisions)[1].note
    none = [
        (size, decide("int4", scheme_table.options("int4", {"small": 0}), layout)) for size, _ in decisions
    ]
    assert {decision.name for decision in spare_small(none)} == {"int4"}


def test_a_small_weight_is_spared_whatever_four_bits_it_was_to_have():
    options = scheme_table.options("int4", {"low_rank": 16, "small": 3})
    layouts = [Layout("linear", (64, 32), 1), Layout("linear", (1024, 1024), 1)]
    decisions = [(layout.rows * layout.inner, decide("int4", options, layout)) for layout in layouts]
    assert "too small for rank 16" in decisions[0][1].note
    assert [decision.name for decision in spare_small(decisions)] == ["int8", "int4"]


@pytest.mark.parametrize("name", scheme_table.SCHEMES)
def test_fallbacks_end_and_what_a_search_tries_spares_nothing(name):
    scheme = scheme_table.get(name)
    assert 0 < scheme.tolerance < 1, "a wrong graph gives about 1"
    assert not any(candidate.small for candidate in scheme.candidates)
    assert set(scheme.choices) <= scheme.options.__dataclass_fields__.keys()
    chain = [name]
    while fallback := scheme_table.get(chain[-1]).fallback:
        assert fallback not in chain
        chain.append(fallback)
