"""The rewrites that make graphs faster: what they leave, and that rounding is all that changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from artifacts.errors import UsageError
from compiler import road
from compiler.passes import pass_table
from targets import target_table as targets
from targets.graph.weights import WeightRef
from targets.onnxruntime.target import MULTI_HEAD_ATTENTION
from targets.rewrites import INSTANCE_NORM, PAD_HEADS, SPLIT_LINEAR, SUB_PIXEL_CONV
from tests.compiler.passes.graphs import bind, error, evaluate, ops, parse

_RNG = np.random.default_rng(0)


def _array(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _geglu(folder: Path, shape: str = "N,5,8", tail: str = "", split: str = "axis=-1") -> ir.Model:
    model = parse(
        f"""(float[{shape}] x, float[8,12] w, float[12] b) => (float[{shape.replace("8", "6")}] y{tail}) {{
        h = MatMul(x, w)
        z = Add(b, h)
        u, v = Split<{split}, num_outputs=2>(z)
        g = Gelu(v)
        y = Mul(u, g)
    }}"""
    )
    model.graph.opset_imports[""] = 21
    model = bind(model, folder, w=_array(8, 12), b=_array(12))
    from targets.graph.graph_validity import complete

    complete(model)
    return model


def test_a_split_linear_becomes_two(tmp_path: Path) -> None:
    model = _geglu(tmp_path)
    x = _array(3, 5, 8)
    want = evaluate(model, [x])
    road.apply(model, (SPLIT_LINEAR,))
    assert ops(model) == {"MatMul": 2, "Add": 2, "Gelu": 1, "Mul": 1}
    assert error(evaluate(model, [x]), want) < 1e-6
    assert all(isinstance(v.const_value, WeightRef) for v in model.graph.initializers.values())
    assert {v.const_value.key for v in model.graph.initializers.values()} == {"w", "b"}


@pytest.mark.parametrize("given", [{"shape": "N,8"}, {"shape": "N,1,8"}, {"tail": ", float[N,5,12] z"}])
def test_a_split_of_few_rows_or_of_what_others_read_stays(tmp_path: Path, given: dict[str, str]) -> None:
    model = _geglu(tmp_path, **given)
    before = ops(model)
    pass_table.run(model, (pass_table.load(SPLIT_LINEAR.path),))
    assert ops(model) == before


def test_a_split_of_the_tokens_stays(tmp_path: Path) -> None:
    model = parse(
        """(float[N,6,8] x, float[8,12] w) => (float[N,3,12] u, float[N,3,12] v) {
        z = MatMul(x, w)
        u, v = Split<axis=1, num_outputs=2>(z)
    }"""
    )
    model = bind(model, tmp_path, w=_array(8, 12))
    pass_table.run(model, (pass_table.load(SPLIT_LINEAR.path),))
    assert ops(model) == {"MatMul": 1, "Split": 1}


_TOKENS = 1024


def _attention(
    folder: Path, heads: int = 2, size: int = 40, queries: int = 16, mask: str = "", keys: int = _TOKENS
) -> ir.Model:
    """Cross attention over `keys` tokens, as `sdpa` leaves it; its projections have no bias but the values'."""
    width = heads * size
    model = parse(
        f"""(float[N,{queries},24] x, float[N,{keys},24] c, float[24,{width}] wq, float[24,{width}] wk,
             float[24,{width}] wv, float[{width}] bv, float[{width},24] wo{mask and ", float[16,1024] m"})
           => (float[N,{queries},24] y) {{
        split = Constant<value_ints=[0, 0, {heads}, {size}]>()
        flat = Constant<value_ints=[0, 0, {width}]>()
        scale = Constant<value_float=0.158>()
        q = MatMul(x, wq)
        k = MatMul(c, wk)
        v0 = MatMul(c, wv)
        v = Add(v0, bv)
        qs = Reshape(q, split)
        ks = Reshape(k, split)
        vs = Reshape(v, split)
        qt = Transpose<perm=[0,2,1,3]>(qs)
        kt = Transpose<perm=[0,2,3,1]>(ks)
        vt = Transpose<perm=[0,2,1,3]>(vs)
        scaled = Mul(qt, scale)
        scores = MatMul(scaled, kt)
        {mask or "masked = Identity(scores)"}
        p = Softmax<axis=-1>(masked)
        o = MatMul(p, vt)
        ot = Transpose<perm=[0,2,1,3]>(o)
        rows = Reshape(ot, flat)
        y = MatMul(rows, wo)
    }}"""
    )
    arrays = {"wq": (24, width), "wk": (24, width), "wv": (24, width), "bv": (width,), "wo": (width, 24)}
    bind(model, folder, **{name: np.float32(0.3) * _array(*shape) for name, shape in arrays.items()})
    return pass_table.run(model, ("fold", "dead"))


def _feeds() -> list[np.ndarray]:
    return [_array(2, 16, 24), _array(2, _TOKENS, 24)]


def test_attention_becomes_one_node_of_onnx_runtime(tmp_path: Path) -> None:
    model = _attention(tmp_path)
    feeds = _feeds()
    want = evaluate(model, feeds)
    road.apply(model, (MULTI_HEAD_ATTENTION,))
    pass_table.simplify(model)
    assert ops(model) == {"MatMul": 4, "Add": 1, "MultiHeadAttention": 1}
    assert model.graph.opset_imports["com.microsoft"] == 1
    assert error(evaluate(model, feeds), want) < 1e-6


def test_attention_with_a_mask_stays(tmp_path: Path) -> None:
    model = _attention(tmp_path, mask="masked = Add(scores, m)")
    before = ops(model)
    pass_table.run(model, (pass_table.load(MULTI_HEAD_ATTENTION.path),))
    assert ops(model) == before
    assert "com.microsoft" not in model.graph.opset_imports


def test_heads_are_padded_in_the_weights(tmp_path: Path) -> None:
    model = _attention(tmp_path)
    before, feeds = ops(model), _feeds()
    want = evaluate(model, feeds)
    road.apply(model, (PAD_HEADS,))
    assert ops(model) == before
    shapes = {name: tuple(v.shape) for name, v in model.graph.initializers.items() if name[0] in "wb"}
    assert shapes == {"wq": (24, 128), "wk": (24, 128), "wv": (24, 128), "bv": (128,), "wo": (128, 24)}
    assert error(evaluate(model, feeds), want) < 1e-6
    pass_table.run(model, (), check=True)


@pytest.mark.parametrize("given", [{"size": 32}, {"size": 64}, {"size": 80}, {"keys": 77}])
def test_heads_of_other_sizes_or_with_few_keys_stay(tmp_path: Path, given: dict[str, int]) -> None:
    model = _attention(tmp_path, **given)
    before = {name: v.shape for name, v in model.graph.initializers.items()}
    pass_table.run(model, (pass_table.load(PAD_HEADS.path),))
    assert {name: v.shape for name, v in model.graph.initializers.items()} == before


def _group_norm(folder: Path, shape: str) -> ir.Model:
    model = parse(
        f"""(float[{shape}] x, float[8] scale, float[8] bias) => (float[{shape}] y) {{
        y = GroupNormalization<num_groups=4, epsilon=0.25>(x, scale, bias)
    }}"""
    )
    model.graph.opset_imports[""] = 21
    return bind(model, folder, scale=_array(8), bias=_array(8))


@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ("N,8,3,5", set()),
        ("N,8,3,W", set()),
        ("2,8,5", set()),
        ("N,8,H,W", {"Shape"}),
        ("N,8,T,H,W", {"Shape"}),
    ],
)
def test_a_group_norm_becomes_an_instance_norm(tmp_path: Path, shape: str, more: set[str]) -> None:
    model = _group_norm(tmp_path, shape)
    sizes = {"N": 2, "T": 2, "H": 3, "W": 5}
    x = 4 * _array(*(sizes.get(each) or int(each) for each in shape.split(","))) + 3
    want = evaluate(model, [x])
    road.apply(model, (INSTANCE_NORM,))
    plain = {"Reshape": 4, "InstanceNormalization": 1, "Mul": 1, "Add": 1}
    assert ops(model) == plain | dict.fromkeys(more, 1)
    assert error(evaluate(model, [x]), want) < 1e-6
    found = {
        name: v.shape for name, v in model.graph.initializers.items() if isinstance(v.const_value, WeightRef)
    }
    assert found == {"scale": (8,), "bias": (8,)}, "vectors, which are stored in fp32"
    assert model.graph.outputs[0].name == "y"
    pass_table.run(model, (), check=True)


def test_a_group_norm_of_unknown_channels_stays(tmp_path: Path) -> None:
    model = _group_norm(tmp_path, "N,C,3,5")
    pass_table.run(model, (pass_table.load(INSTANCE_NORM.path),))
    assert ops(model) == {"GroupNormalization": 1}


_NEAREST = "mode='nearest', coordinate_transformation_mode='asymmetric', nearest_mode='floor'"


def _enlarged(
    folder: Path,
    kernel: tuple[int, int] = (3, 3),
    times: str = "1, 1, 2, 2",
    how: str = _NEAREST.replace("'", '"'),
    conv: str = "pads=[1,1,1,1]",
    bias: str = ", b",
    tail: str = "",
) -> ir.Model:
    """A picture enlarged, and a convolution of that; `tail` is one more output."""
    model = parse(
        f"""(float[N,4,H,W] x, float[5,4,{kernel[0]},{kernel[1]}] w, float[5] b)
            => (float[N,5,P,Q] y{tail}) {{
        s = Constant<value = float[4] {{{times}}}>()
        u = Resize<{how}>(x, , s)
        y = Conv<{conv}>(u, w{bias})
    }}"""
    )
    model.graph.opset_imports[""] = 21
    return pass_table.run(bind(model, folder, w=_array(5, 4, *kernel), b=_array(5)), ("fold", "dead"))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"bias": ""},
        {"times": "1, 1, 3, 3"},
        {"kernel": (5, 5), "conv": "pads=[2,2,2,2]"},
        {"kernel": (5, 3), "conv": "pads=[2,1,2,1]", "times": "1, 1, 4, 4"},
        {"kernel": (2, 2), "conv": "pads=[0,1,1,0]"},
        {"kernel": (4, 1), "conv": "pads=[2,0,1,0]"},
        {"conv": "pads=[0,0,2,2], strides=[1,1], dilations=[1,1], group=1"},
        {"conv": "pads=[2,0,0,2]"},
    ],
)
def test_a_convolution_of_an_enlarged_picture_becomes_some_of_the_picture(
    tmp_path: Path, given: dict[str, str]
) -> None:
    model = _enlarged(tmp_path, **given)  # type: ignore[arg-type]
    x = _array(2, 4, 3, 5)
    want = evaluate(model, [x])
    assert road.apply(model, (SUB_PIXEL_CONV,))[1] == ("sub-pixel-conv",)
    times = int(given.get("times", "2")[-1])
    assert ops(model) == {"Conv": times**2, "Concat": 1, "DepthToSpace": 1}
    assert error(evaluate(model, [x]), want) < 1e-6
    weights = [v.const_value for v in model.graph.initializers.values()]
    assert all(isinstance(each, WeightRef) for each in weights)
    assert {each.key for each in weights if isinstance(each, WeightRef)} <= {"w", "b"}
    if given == {}:
        assert [each.shape.numpy() for each in weights if each is not None and each.shape.rank() == 4] == [
            (5, 4, 2, 2)
        ] * 4
    assert model.graph.outputs[0].name == "y"
    pass_table.run(model, (), check=True)


@pytest.mark.parametrize(
    "given",
    [
        {"kernel": (1, 1), "conv": "pads=[0,0,0,0]"},
        {"conv": "pads=[0,0,0,0]"},
        {"conv": "pads=[1,1,1,1], strides=[2,2]"},
        {"conv": "pads=[2,2,2,2], dilations=[2,2]"},
        {"conv": 'auto_pad="SAME_UPPER"'},
        {"times": "1, 1, 2, 3"},
        {"times": "1, 1, 1.5, 1.5"},
        {"times": "1, 2, 2, 2", "kernel": (3, 3), "conv": "pads=[1,1,1,1], group=2"},
        {"how": 'mode="linear", coordinate_transformation_mode="asymmetric"'},
        {"how": 'mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="floor"'},
        {"how": 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="ceil"'},
        {"tail": ", float[N,4,P,Q] u"},
    ],
)
def test_other_convolutions_and_other_enlarging_stay(tmp_path: Path, given: dict[str, str]) -> None:
    model = _enlarged(tmp_path, **given)  # type: ignore[arg-type]
    before = ops(model)
    pass_table.run(model, (pass_table.load(SUB_PIXEL_CONV.path),))
    assert ops(model) == before


def names(target: str, precision: str, asked: str = "", compressed: bool = False) -> tuple[str, ...]:
    return tuple(rewrite.name for rewrite in road.chosen(targets.get(target), precision, asked, compressed))


def test_which_rewrites_a_graph_gets() -> None:
    assert names("openvino", "fp16") == ("split-linear", "sub-pixel-conv")
    assert names("openvino", "bf16") == ("split-linear", "sub-pixel-conv")
    assert names("openvino", "fp16", compressed=True) == ("split-linear",)
    assert names("openvino", "fp16", "sub-pixel-conv", compressed=True) == ("sub-pixel-conv",)
    assert names("openvino", "bf16", "pad-heads") == ("pad-heads",)
    usual = ("split-linear", "sub-pixel-conv", "multi-head-attention", "instance-norm")
    assert names("onnxruntime", "fp32") == usual
    assert names("tensorrt", "fp16") == ()
    assert names("onnxruntime", "fp32", "none") == ()
    asked = "multi-head-attention, split-linear"
    assert names("onnxruntime", "fp32", asked) == ("split-linear", "multi-head-attention")
    with pytest.raises(UsageError, match="no rewrite 'fast'"):
        names("openvino", "fp16", "fast")
    with pytest.raises(UsageError, match="'openvino' has no rewrite 'multi-head-attention'"):
        names("openvino", "fp16", "multi-head-attention")
