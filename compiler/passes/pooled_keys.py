"""Self-attention over a picture's tokens reads keys and values of 2x2 neighbours, averaged: a quarter of the products.

An approximation (token downsampling, Smith et al., "ToDo: Token Downsampling for Efficient Generation of
High-Resolution Images", arXiv:2402.13573): neighbours in a large picture are alike. Tokens are averaged in front of the
linear layers that make keys and values of them, which then are a quarter of the work, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from targets.graph.constants import int_attribute, ints_attribute
from targets.graph.dims import Dim, Dims, dims, same
from targets.graph.edit import add_constant, insert
from targets.graph.match import maker, sole_maker, sole_reader
from targets.graph.onnx_files import fix_dims, infer_shapes, symbols

FEWEST_KEYS = 2048
"""Attention over fewer keys stays: over 1,024, averaging costs more than it saves."""

# From [batch, tokens, heads, size]: as values, and as keys that the product reads turned about.
_VALUES, _KEYS = (0, 2, 1, 3), (0, 2, 3, 1)

# What computes each token by itself, of its first inputs; norms and products have parameters behind the first.
_POINTWISE = frozenset("Add Sub Mul Div Cast Identity Gelu Sigmoid Tanh Erf Neg Relu".split())
_ROWS = frozenset("LayerNormalization RMSNormalization MatMul".split())


class PooledKeysPass(ir.passes.InPlacePass):
    """``Softmax(q k^T) v``, all three linear in one value [batch, height x width, channels], reads fewer k and v.

    Attention with a mask stays as it is, and so does what does not show that its tokens are a picture's in rows.
    """

    def __init__(self, largest: Mapping[str, int] | None = None) -> None:
        """
        Args:
            largest: symbolic dimension -> its largest declared size. Attention is judged by the keys that it has then.
        """
        self._largest = dict(largest or {})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        softmaxes = [n for n in model.graph if n.op_type == "Softmax" and n.domain == ""]
        keys = self._keys(model, softmaxes)
        done = [
            node
            for node in softmaxes
            if keys.get(str(node.outputs[0].name), 0) >= FEWEST_KEYS and _pool(node, model.graph)
        ]
        return ir.passes.PassResult(model, bool(done))

    def _keys(self, model: ir.Model, softmaxes: list[ir.Node]) -> dict[str, int]:
        """Name of each softmax's output -> how many keys it has in the largest picture; unknown ones are absent."""
        widths = {str(node.outputs[0].name): (dims(node.inputs[0]) or (None,))[-1] for node in softmaxes}
        key_counts = {name: width for name, width in widths.items() if isinstance(width, int)}
        largest = {name: size for name, size in self._largest.items() if name in symbols(model)}
        if len(key_counts) == len(widths) or not largest:
            return key_counts
        from compiler.passes.pass_table import simplify

        sized = infer_shapes(fix_dims(model, largest), simplify)
        for node in sized.graph:
            width = (dims(node.outputs[0]) or (None,))[-1]
            if node.op_type == "Softmax" and isinstance(width, int):
                key_counts[str(node.outputs[0].name)] = width
        return key_counts


def _pool(softmax: ir.Node, graph: ir.Graph) -> bool:
    product, end = sole_maker(softmax.inputs[0], "MatMul"), sole_reader(softmax.outputs[0], "MatMul")
    if product is None or end is None or end.inputs[0] is not softmax.outputs[0]:
        return False
    if int_attribute(softmax, "axis", -1) not in (-1, 3):
        return False
    queries = _Projection.of(product.inputs[0], _VALUES, alone=False)
    keys, values = _Projection.of(product.inputs[1], _KEYS), _Projection.of(end.inputs[1], _VALUES)
    if queries is None or keys is None or values is None:
        return False
    source = keys.source
    if source is not values.source or source is not queries.source:
        return False
    grid = _grid(source)
    if grid is None:
        return False
    pooled = _averaged(source, grid, graph)
    tokens = (dims(pooled) or ())[1]
    for projection in (keys, values):
        projection.read(pooled, tokens, graph)
    for value in (product.outputs[0], softmax.outputs[0]):
        _resize(value, -1, tokens)
    return True


@dataclass(frozen=True)
class _Projection:
    """A linear layer whose rows are split into heads: ``[Mul] Transpose Reshape [Add] MatMul``.

    Attributes:
        path: values of the way, with the axis of tokens in each.
        split: the node that makes heads of rows.
        product: the linear layer's.
    """

    path: tuple[tuple[ir.Value, int], ...]
    split: ir.Node
    product: ir.Node

    @property
    def source(self) -> ir.Value:
        """[batch, tokens, channels]."""
        value = self.product.inputs[0]
        assert value is not None
        return value

    @classmethod
    def of(cls, value: ir.Value | None, perm: tuple[int, ...], alone: bool = True) -> _Projection | None:
        """What makes `value`; None where it is made in another way.

        Args:
            alone: nothing else may read a value of the way.
        """
        make = sole_maker if alone else maker
        path: list[tuple[ir.Value, int]] = []
        tokens = perm.index(1)
        scaled = make(value, "Mul")
        if scaled is not None:
            side = next((i for i in (0, 1) if dims(scaled.inputs[i]) in ((), (1,))), None)
            if side is None:
                return None
            path.append((scaled.outputs[0], tokens))
            value = scaled.inputs[1 - side]
        turned = make(value, "Transpose")
        split = None if turned is None else make(turned.inputs[0], "Reshape")
        if turned is None or split is None or ints_attribute(turned, "perm") != perm:
            return None
        heads, rows = dims(split.outputs[0]), dims(split.inputs[0])
        if not _splits(heads, rows):
            return None
        path += [(turned.outputs[0], tokens), (split.outputs[0], 1)]
        added, product = make(split.inputs[0], "Add"), make(split.inputs[0], "MatMul")
        if added is not None:
            path.append((added.outputs[0], 1))
            sides = (make(added.inputs[0], "MatMul"), make(added.inputs[1], "MatMul"))
            product = sides[0] or sides[1]
            bias = added.inputs[1 if sides[0] is not None else 0]
            if len(dims(bias) or (None, None)) != 1:
                return None
        if product is None or product.inputs[0] is None or len(dims(product.inputs[1]) or ()) != 2:
            return None
        path.append((product.outputs[0], 1))
        return cls(tuple(path), split, product)

    def read(self, pooled: ir.Value, tokens: Dim, graph: ir.Graph) -> None:
        """The same of other tokens: another number of them."""
        self.product.replace_input_with(0, pooled)
        heads = dims(self.split.outputs[0])
        assert heads is not None
        to = add_constant(
            graph, np.array([0, -1, *heads[2:]], np.int64), f"{self.split.outputs[0].name}.pooled"
        )
        self.split.replace_input_with(1, to)
        for value, axis in self.path:
            _resize(value, axis, tokens)


def _splits(heads: Dims | None, rows: Dims | None) -> bool:
    """Whether these are [batch, tokens, heads, size] and [batch, tokens, heads * size]."""
    if heads is None or rows is None or len(heads) != 4 or len(rows) != 3:
        return False
    number, size = heads[2:]
    return (
        isinstance(number, int)
        and isinstance(size, int)
        and rows[2] == number * size
        and same(heads[:2], rows[:2])
    )


@dataclass(frozen=True)
class _Grid:
    """A picture of which tokens are the rows: `value` has its height along `axis`, and its width along the next."""

    value: ir.Value
    axis: int

    @property
    def sizes(self) -> Dims:
        """Height and width."""
        return (dims(self.value) or ())[self.axis : self.axis + 2]


def _grid(tokens: ir.Value) -> _Grid | None:
    """The picture that `tokens` [batch, height x width, channels] were, behind what computes each by itself."""
    pending, seen = [tokens], {tokens}
    while pending:
        value = pending.pop(0)
        node, shape = value.producer(), dims(value)
        if node is None or node.domain or shape is None or len(shape) != 3:
            continue
        if (grid := _flattened(node, shape)) is not None:
            return grid
        inputs = (
            node.inputs if node.op_type in _POINTWISE else node.inputs[:1] if node.op_type in _ROWS else ()
        )
        for before in inputs:
            if before is not None and before not in seen and same((dims(before) or ())[:2], shape[:2]):
                seen.add(before)
                pending.append(before)
    return None


def _flattened(node: ir.Node, shape: Dims) -> _Grid | None:
    """The picture, where `node` makes one token of each pixel, row by row."""
    if node.op_type == "Reshape":
        return _as_grid(node.inputs[0], shape, 1)
    flat = maker(node.inputs[0], "Reshape") if node.op_type == "Transpose" else None
    if flat is None or ints_attribute(node, "perm") != (0, 2, 1):
        return None
    return _as_grid(flat.inputs[0], shape, 2)


def _as_grid(picture: ir.Value | None, tokens: Dims, axis: int) -> _Grid | None:
    shape = dims(picture)
    if picture is None or shape is None or len(shape) != 4:
        return None
    height, width = shape[axis : axis + 2]
    channels = shape[3 if axis == 1 else 1]
    if channels != tokens[2] or not isinstance(channels, int) or not same(shape[:1], tokens[:1]):
        return None
    if isinstance(height, int) and isinstance(width, int):
        return _Grid(picture, axis) if min(height, width) > 1 and height * width == tokens[1] else None
    # Rows that are split into heads look alike, but for the number of tokens.
    return None if tokens[1] in (height, width) or 1 in (height, width) else _Grid(picture, axis)


def _averaged(tokens: ir.Value, grid: _Grid, graph: ir.Graph) -> ir.Value:
    """[batch, pooled tokens, channels]: means of 2x2 neighbours, at odd edges of those that there are."""
    batch, count, channels = dims(tokens) or ()
    after = tokens.producer()
    assert after is not None and isinstance(channels, int)
    name = f"{tokens.name}.pooled"
    height, width = grid.sizes
    static = isinstance(height, int) and isinstance(width, int)
    halves: Dims = (
        tuple(-(-size // 2) for size in (height, width)) if static else (f"{name}.height", f"{name}.width")  # type: ignore[operator]
    )
    total: Dim = math.prod(halves) if static else f"{name}.tokens"  # type: ignore[arg-type]
    if static:
        size = add_constant(graph, np.array([0, channels, height, width], np.int64), f"{name}.size")
    else:
        ends = {"start": grid.axis, "end": grid.axis + 2}
        after = insert(after, "Shape", [grid.value], ends, dtype=ir.DataType.INT64, shape=(2,))
        front = add_constant(graph, np.array([0, channels], np.int64), f"{name}.front")
        after = insert(
            after, "Concat", [front, after.outputs[0]], {"axis": 0}, dtype=ir.DataType.INT64, shape=(4,)
        )
        size = after.outputs[0]
    kind = tokens.dtype
    after = insert(
        after, "Transpose", [tokens], {"perm": (0, 2, 1)}, dtype=kind, shape=(batch, channels, count)
    )
    after = insert(
        after, "Reshape", [after.outputs[0], size], dtype=kind, shape=(batch, channels, height, width)
    )
    window = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
    after = insert(after, "AveragePool", after.outputs, window, dtype=kind, shape=(batch, channels, *halves))
    flat = add_constant(graph, np.array([0, 0, -1], np.int64), f"{name}.flat")
    after = insert(after, "Reshape", [after.outputs[0], flat], dtype=kind, shape=(batch, channels, total))
    after = insert(
        after, "Transpose", after.outputs, {"perm": (0, 2, 1)}, dtype=kind, shape=(batch, total, channels)
    )
    return after.outputs[0]


def _resize(value: ir.Value, axis: int, size: Dim) -> None:
    shape = list(dims(value) or ())
    shape[axis] = size
    value.shape = ir.Shape(shape)
