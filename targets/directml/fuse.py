"""What DirectML has no kernel for, and what it has a faster one for, in ONNX Runtime's own operators.

The graph's shapes are fixed and known. Of these operators the provider has kernels; their CPU twins differ, so a
fused graph is for DirectML alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from targets.graph.constants import int_attribute
from targets.graph.dims import static
from targets.graph.edit import add_constant, alias, insert
from targets.graph.match import sole_maker, sole_reader

MICROSOFT = "com.microsoft"

# The kernel takes an attention bias in its full shape only. One that is larger than this stays an addition, which
# broadcasts (elements).
LARGEST_BIAS = 32 * 2**20

_HEADS = (0, 2, 1, 3)


def fuse(model: ir.Model) -> None:
    """Rewrites `model` in place."""
    for node in list(model.graph):
        if node.graph is None or node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Softmax":
            _attention(node)
        elif node.op_type == "Gelu":
            _gelu(node)
        elif node.op_type == "GroupNormalization":
            _group_norm(node)
    if any(node.domain == MICROSOFT for node in model.graph):
        model.graph.opset_imports[MICROSOFT] = 1


# --- attention -------------------------------------------------------------------------------------


def _attention(softmax: ir.Node) -> None:
    """``Softmax(q k^T * scale [+ bias]) v`` over heads becomes one MultiHeadAttention over [batch, tokens, width]."""
    logits = softmax.inputs[0]
    add = sole_maker(_uncast(logits), "Add")
    product, bias = (sole_maker(logits, "MatMul"), None) if add is None else _product_and_bias(add)
    end = sole_reader(softmax.outputs[0], "MatMul")
    if product is None or end is None or end.inputs[0] is not softmax.outputs[0]:
        return
    query, keys, values = product.inputs[0], product.inputs[1], end.inputs[1]
    scores = static(product.outputs[0])
    shapes = [static(v) for v in (query, keys, values)]
    if scores is None or any(s is None or len(s) != 4 for s in (*shapes, scores)):
        return
    batch, heads, rows, _ = scores
    if any(s is None or s[:2] != (batch, heads) for s in shapes) or int_attribute(
        softmax, "axis", -1
    ) not in (-1, 3):
        return
    if len({v.dtype for v in (query, keys, values) if v is not None}) != 1:
        return
    if bias is not None and (math.prod(scores) > LARGEST_BIAS or static(bias) is None):
        return
    assert values is not None
    scale, query = _scale(query)
    inputs: list[ir.Value | None]
    inputs = [_tokens(query, _HEADS, end), _tokens(keys, (0, 3, 1, 2), end), _tokens(values, _HEADS, end)]
    if bias is not None:
        inputs += [None, None, _full(bias, values.dtype, scores, end)]
    width = heads * shapes[2][3]  # type: ignore[index]
    node = _insert(
        end,
        "MultiHeadAttention",
        inputs,
        {"num_heads": heads, "scale": scale},
        (batch, rows, width),
        MICROSOFT,
    )
    _replace_heads(end, node.outputs[0], (batch, rows, heads, width // heads))


def _product_and_bias(add: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    for side in (0, 1):
        product = sole_maker(_uncast(add.inputs[side]), "MatMul")
        if product is not None and static(product.outputs[0]) == static(add.outputs[0]):
            return product, add.inputs[1 - side]
    return None, None


def _scale(query: ir.Value | None) -> tuple[float, ir.Value | None]:
    """The number that the queries are multiplied by, and the queries without it."""
    node = sole_maker(query, "Mul")
    for side in (0, 1) if node is not None else ():
        assert node is not None
        number, other = node.inputs[side], node.inputs[1 - side]
        if number is None or number.const_value is None or other is None or number.is_graph_input():
            continue
        if number.const_value.size == 1 and static(other) == static(query):
            return float(number.const_value.numpy().reshape(())), other
    return 1.0, query


def _tokens(value: ir.Value | None, perm: tuple[int, ...], before: ir.Node) -> ir.Value:
    """`value`, transposed by `perm` to [batch, tokens, heads, size], as [batch, tokens, heads * size]."""
    assert value is not None
    while (
        (maker := value.producer()) is not None
        and maker.op_type == "Transpose"
        and "perm" in maker.attributes
    ):
        first = maker.attributes["perm"].as_ints()
        value, perm = maker.inputs[0], tuple(first[i] for i in perm)
        assert value is not None
    shape = static(value)
    assert shape is not None
    turned = tuple(shape[i] for i in perm)
    if perm != (0, 1, 2, 3):
        value = _insert(before, "Transpose", [value], {"perm": perm}, turned).outputs[0]
    flat = (*turned[:2], turned[2] * turned[3])
    split = value.producer()
    if split is not None and split.op_type == "Reshape" and static(split.inputs[0]) == flat:
        assert split.inputs[0] is not None
        return split.inputs[0]
    return _reshape(value, flat, before)


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """What a Cast between float types was made of: a mask too low for fp16 makes its addition one in fp32."""
    cast = sole_maker(value, "Cast")
    source = None if cast is None else cast.inputs[0]
    floats = source is not None and source.dtype is not None and source.dtype.is_floating_point()
    return source if floats else value


def _full(bias: ir.Value, wanted: ir.DataType | None, shape: tuple[int, ...], before: ir.Node) -> ir.Value:
    """The bias in the type and the full shape that the kernel takes; layers that share it share that too."""
    if bias.dtype != wanted and wanted == ir.DataType.FLOAT16:
        # fp16's lowest number hides as well as any lower one, and is not infinite.
        most = np.float32(np.finfo(np.float16).max)
        ends = [_constant(before, np.array(-most), "lowest"), _constant(before, np.array(most), "highest")]
        bias = _behind(bias, "Clip", ends, {}, static(bias), before)
        bias = _behind(bias, "Cast", [], {"to": int(wanted)}, static(bias), before)
        bias.dtype = wanted
    if static(bias) == shape:
        return bias
    return _behind(bias, "Expand", [_shape(before, shape)], {}, shape, before)


def _behind(
    value: ir.Value,
    op_type: str,
    inputs: list[ir.Value],
    attributes: dict[str, Any],
    shape: tuple[int, ...] | None,
    like: ir.Node,
) -> ir.Value:
    """A node right behind the maker of `value`, where all its readers may share it; the one that is there."""
    name = f"directml.{op_type}.{value.name}.{shape}"
    for use in value.uses():
        if use.node.name == name:
            return use.node.outputs[0]
    graph, maker = like.graph, value.producer()
    assert graph is not None
    node = _insert(like, op_type, [value, *inputs], attributes, shape)
    node.name = name
    graph.remove(node)
    if maker is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(maker, node)
    return node.outputs[0]


def _replace_heads(end: ir.Node, out: ir.Value, split: tuple[int, ...]) -> None:
    """`out` [batch, tokens, width] for what read [batch, heads, tokens, size], whose turn and merge go."""
    turn = sole_reader(end.outputs[0], "Transpose")
    if turn is not None and tuple(turn.attributes["perm"].as_ints()) == _HEADS:
        merge = sole_reader(turn.outputs[0], "Reshape")
        if merge is not None and static(merge.outputs[0]) == static(out):
            _replace(merge, out)
            return
        _replace(turn, _reshape(out, split, end))
        return
    heads = _reshape(out, split, end)
    shape = (split[0], split[2], split[1], split[3])
    _replace(end, _insert(end, "Transpose", [heads], {"perm": _HEADS}, shape).outputs[0])


# --- activations and norms -------------------------------------------------------------------------


def _gelu(node: ir.Node) -> None:
    """Gelu with the addition of a bias before it, where there is one; tanh's approximation is FastGelu."""
    data = node.inputs[0]
    assert data is not None
    shape = static(data)
    if "approximate" in node.attributes and node.attributes["approximate"].as_string() == "tanh":
        _replace(node, _insert(node, "FastGelu", [data], {}, shape, MICROSOFT).outputs[0])
        return
    add = sole_maker(data, "Add")
    for side in (0, 1) if add is not None else ():
        assert add is not None
        bias, other = add.inputs[side], add.inputs[1 - side]
        if bias is None or other is None or not bias.is_initializer():
            continue
        if static(other) == shape and static(bias) == (shape or (0,))[-1:]:
            _replace(node, _insert(node, "BiasGelu", [other, bias], {}, shape, MICROSOFT).outputs[0])
            return
    _replace(node, _insert(node, "Gelu", [data], {}, shape, MICROSOFT).outputs[0])


def _group_norm(node: ir.Node) -> None:
    """Pictures: GroupNorm, which wants channels last and takes a SiLU behind it. Others: InstanceNormalization."""
    data, gamma, beta = node.inputs
    shape = static(data)
    assert data is not None and gamma is not None and beta is not None and shape is not None
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    groups = node.attributes["num_groups"].as_int()
    if len(shape) != 4:
        _replace(node, _instance_norm(node, groups, epsilon, shape))
        return
    end, silu = _silu(node)
    last = tuple(shape[i] for i in (0, 2, 3, 1))
    turned = _insert(end, "Transpose", [data], {"perm": (0, 2, 3, 1)}, last).outputs[0]
    attributes = {"channels_last": 1, "groups": groups, "epsilon": epsilon, "activation": int(silu)}
    normed = _insert(end, "GroupNorm", [turned, gamma, beta], attributes, last, MICROSOFT).outputs[0]
    _replace(end, _insert(end, "Transpose", [normed], {"perm": (0, 3, 1, 2)}, shape).outputs[0])


def _silu(node: ir.Node) -> tuple[ir.Node, bool]:
    """The Mul of ``x * Sigmoid(x)`` when that is all that reads the node, or the node itself."""
    out = node.outputs[0]
    readers = {use.node for use in out.uses()}
    sigmoid = next((n for n in readers if n.op_type == "Sigmoid"), None)
    product = None if sigmoid is None else sole_reader(sigmoid.outputs[0], "Mul")
    if product is None or readers != {sigmoid, product} or out.is_graph_output():
        return node, False
    return product, True


def _instance_norm(node: ir.Node, groups: int, epsilon: float, shape: tuple[int, ...]) -> ir.Value:
    data, gamma, beta = node.inputs
    assert data is not None and gamma is not None and beta is not None and data.dtype is not None
    kind = data.dtype.numpy()
    ones = _constant(node, np.ones(groups, kind), "ones")
    zeros = _constant(node, np.zeros(groups, kind), "zeros")
    split = (shape[0], groups, math.prod(shape[1:]) // groups)
    rows = _reshape(data, split, node)
    normed = _insert(node, "InstanceNormalization", [rows, ones, zeros], {"epsilon": epsilon}, split)
    out = _reshape(normed.outputs[0], shape, node)
    wide = (shape[1], *(1 for _ in shape[2:]))
    out = _insert(node, "Mul", [out, _reshape(gamma, wide, node)], {}, shape).outputs[0]
    return _insert(node, "Add", [out, _reshape(beta, wide, node)], {}, shape).outputs[0]


# --- small edits -----------------------------------------------------------------------------------


def _insert(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, Any],
    shape: tuple[int, ...] | None,
    domain: str = "",
) -> ir.Node:
    """A new node right before another; its output has the element type of its first input that has one."""
    dtype = next(v.dtype for v in inputs if v is not None and v.dtype is not None)
    return insert(before, op_type, inputs, attributes, dtype=dtype, shape=shape, before=True, domain=domain)


def _reshape(value: ir.Value, shape: tuple[int, ...], before: ir.Node) -> ir.Value:
    return _insert(before, "Reshape", [value, _shape(before, shape)], {}, shape).outputs[0]


def _shape(node: ir.Node, shape: tuple[int, ...]) -> ir.Value:
    return _constant(node, np.array(shape, np.int64), "shape." + "x".join(map(str, shape)))


def _constant(node: ir.Node, array: np.ndarray, name: str) -> ir.Value:
    """A constant of the graph; one that is there already under this name and of this type serves."""
    graph = node.graph
    assert graph is not None
    unique = f"directml.{name}.{array.dtype.name}x{array.size}"
    return graph.initializers.get(unique) or add_constant(graph, array, unique)


def _replace(node: ir.Node, new: ir.Value) -> None:
    """`new` stands in for the node's output."""
    alias(node, [new])
