"""Attention heads of a size that a kernel is slow at, padded with zeros in the weights around it.

Zeros at the end of a head's queries and keys add nothing to their products, those of the values come out as zeros, and
meet zeros in the weights behind. Nothing is computed to pad: the weights are as they are written. The scale stays.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from targets.graph.constants import constant, int_attribute, ints_attribute
from targets.graph.dims import Dims, dims
from targets.graph.edit import add_constant, add_initializer
from targets.graph.match import sole_maker, sole_reader
from targets.graph.weights import Pad, Reshape, WeightRef

# Sizes between these two become the second. Of OpenVINO's bf16 kernels on AMX, whose tiles are 32 deep, 40 takes 114 ms
# and 64 takes 93, over 4,096 tokens.
SIZES = (32, 64)

# Fewer keys than this are not worth the wider projections.
FEWEST_KEYS = 1024

# Of queries and values, and of keys.
_HEADS_FIRST = ((0, 2, 1, 3), (0, 2, 3, 1))


class PadHeadsPass(ir.passes.InPlacePass):
    """Pads heads of 33 to 63 to 64 where queries, keys and values are linear layers that nothing else reads."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        softmaxes = [n for n in model.graph if n.op_type == "Softmax" and n.domain == ""]
        done = [node for node in softmaxes if _pad(node, model.graph)]
        return ir.passes.PassResult(model, bool(done))


def _pad(softmax: ir.Node, graph: ir.Graph) -> bool:
    scores = dims(softmax.inputs[0])
    product, end = sole_maker(softmax.inputs[0], "MatMul"), sole_reader(softmax.outputs[0], "MatMul")
    if product is None or end is None or end.inputs[0] is not softmax.outputs[0] or scores is None:
        return False
    if len(scores) != 4 or not isinstance(scores[-1], int) or scores[-1] < FEWEST_KEYS:
        return False
    if int_attribute(softmax, "axis", -1) not in (-1, 3):
        return False
    candidates = [_Split.of(product.inputs[0]), _Split.of(product.inputs[1]), _Split.of(end.inputs[1])]
    join = _Join.of(end.outputs[0])
    if join is None or any(split is None for split in candidates):
        return False
    splits = [split for split in candidates if split is not None]
    heads, size = splits[0].heads
    if any(split.heads != (heads, size) for split in splits) or join.heads != (heads, size):
        return False
    if not isinstance(size, int) or not SIZES[0] < size < SIZES[1]:
        return False
    for split in splits:
        split.pad(SIZES[1] - size, graph)
    _resize(end.outputs[0], size, SIZES[1])
    join.pad(SIZES[1] - size, graph)
    return True


class _Split:
    """A linear layer whose rows are split into heads: ``[Mul] Transpose Reshape [Add] MatMul``, last first."""

    def __init__(self, path: list[ir.Node], split: ir.Node, weights: list[ir.Value]) -> None:
        self.path = path
        self.split = split
        self.weights = weights
        shape = dims(split.outputs[0])
        assert shape is not None
        self.heads = (shape[2], shape[3])

    @classmethod
    def of(cls, value: ir.Value | None) -> _Split | None:
        path, weights = [], []
        scaled = sole_maker(value, "Mul")
        if scaled is not None:
            side = next((i for i in (0, 1) if _is_number(scaled.inputs[i])), None)
            if side is None:
                return None
            path.append(scaled)
            value = scaled.inputs[1 - side]
        turned = sole_maker(value, "Transpose")
        split = None if turned is None else sole_maker(turned.inputs[0], "Reshape")
        if turned is None or split is None or ints_attribute(turned, "perm") not in _HEADS_FIRST:
            return None
        shape, flat = dims(split.outputs[0]), dims(split.inputs[0])
        if not _splits(shape, flat):
            return None
        product = sole_maker(split.inputs[0], "MatMul")
        added = sole_maker(split.inputs[0], "Add")
        if added is not None:
            path.append(added)
            product = sole_maker(added.inputs[0], "MatMul") or sole_maker(added.inputs[1], "MatMul")
            bias = added.inputs[0] if product is added.inputs[1].producer() else added.inputs[1]  # type: ignore[union-attr]
            if not _is_own(bias, 1) or dims(bias) != (flat or ())[-1:]:
                return None
            assert bias is not None
            weights.append(bias)
        weight = None if product is None else product.inputs[1]
        if product is None or weight is None or not _is_own(weight, 2):
            return None
        return cls([*path, turned, product], split, [*weights, weight])

    def pad(self, zeros: int, graph: ir.Graph) -> None:
        """`zeros` at the end of each head."""
        heads, size = self.heads
        assert isinstance(heads, int) and isinstance(size, int)
        for value in self.weights:
            _replace(value, -1, heads, size, zeros, graph)
        _shape(self.split, 3, size + zeros, graph)
        for node in self.path:
            wide = node.op_type in ("MatMul", "Add")
            _resize(
                node.outputs[0], *((heads * size, heads * (size + zeros)) if wide else (size, size + zeros))
            )


class _Join:
    """Heads that become rows again, and the linear layer that reads those."""

    def __init__(self, turned: ir.Node, join: ir.Node, weight: ir.Value) -> None:
        self.turned = turned
        self.join = join
        self.weight = weight
        shape = dims(turned.outputs[0])
        assert shape is not None
        self.heads = (shape[2], shape[3])

    @classmethod
    def of(cls, value: ir.Value) -> _Join | None:
        turned = sole_reader(value, "Transpose")
        join = None if turned is None else sole_reader(turned.outputs[0], "Reshape")
        product = None if join is None else sole_reader(join.outputs[0], "MatMul")
        if (
            turned is None
            or join is None
            or product is None
            or ints_attribute(turned, "perm") != (0, 2, 1, 3)
        ):
            return None
        weight = product.inputs[1]
        if product.inputs[0] is not join.outputs[0] or weight is None or not _is_own(weight, 2):
            return None
        if not _splits(dims(turned.outputs[0]), dims(join.outputs[0])):
            return None
        return cls(turned, join, weight)

    def pad(self, zeros: int, graph: ir.Graph) -> None:
        """`zeros` for what comes out of each head's end."""
        heads, size = self.heads
        assert isinstance(heads, int) and isinstance(size, int)
        _replace(self.weight, 0, heads, size, zeros, graph)
        _shape(self.join, 2, heads * (size + zeros), graph)
        _resize(self.turned.outputs[0], size, size + zeros)


def _splits(heads: Dims | None, flat: Dims | None) -> bool:
    """Whether these are [batch, tokens, heads, size] and [batch, tokens, heads * size]."""
    if heads is None or flat is None or len(heads) != 4 or len(flat) != 3:
        return False
    number, size = heads[2:]
    return (
        isinstance(number, int)
        and isinstance(size, int)
        and flat[2] == number * size
        and heads[:2] == flat[:2]
    )


def _is_number(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and array.size == 1


def _is_own(value: ir.Value | None, rank: int) -> bool:
    """Whether it is a weight that one node alone reads."""
    if value is None or value.is_graph_input() or len(value.uses()) != 1:
        return False
    return isinstance(value.const_value, WeightRef) and len(value.const_value.shape) == rank


def _replace(value: ir.Value, axis: int, heads: int, size: int, zeros: int, graph: ir.Graph) -> None:
    """The weight with `zeros` at the end of each head along `axis`, under its own name."""
    weight, name = value.const_value, value.name
    assert isinstance(weight, WeightRef) and name is not None
    shape = tuple(weight.shape.numpy())
    axis %= len(shape)
    split = (*shape[:axis], heads, size, *shape[axis + 1 :])
    flat = (*shape[:axis], heads * (size + zeros), *shape[axis + 1 :])
    padded = weight.then(Reshape(split), Pad(axis + 1, zeros), Reshape(flat))
    del graph.initializers[name]
    value.name = f"{name}.unpadded"
    padded.name = name
    ir.convenience.replace_all_uses_with(value, add_initializer(graph, padded, name))


def _shape(reshape: ir.Node, axis: int, length: int, graph: ir.Graph) -> None:
    out = reshape.outputs[0]
    shape = dims(out)
    assert shape is not None
    # The leading dimensions are its input's own: a zero takes them over.
    to = [0, 0, *shape[2:]]
    to[axis] = length
    reshape.replace_input_with(1, add_constant(graph, np.array(to, np.int64), f"{out.name}.padded"))
    out.shape = ir.Shape([*shape[:axis], length, *shape[axis + 1 :]])


def _resize(value: ir.Value, old: int, new: int) -> None:
    """The last dimension (of keys, turned about, the one before) that is `old` becomes `new`."""
    shape = list(dims(value) or ())
    axis = next(i for i in (-1, -2) if shape[i] == old)
    shape[axis] = new
    value.shape = ir.Shape(shape)
