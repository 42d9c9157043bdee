"""Complex arithmetic on pairs of real nodes: products, and a rule for each operator that has one of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node

_aten: Any = torch.ops.aten

REAL = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}

Pair = tuple[Node, Node]


class PairGraph:
    """A graph some of whose nodes stand for a pair of real ones, and the arithmetic of such nodes.

    Attributes:
        pairs: complex node -> its real and its imaginary part.
        at: the node that is rewritten: new nodes take its module and its place in the source.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.pairs: dict[Node, Pair] = {}
        self.mode = next(
            value.fake_mode
            for node in self.graph.nodes
            if hasattr(value := node.meta.get("val"), "fake_mode")
        )
        self.at: Node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """A new node that calls the operator `target`, with the shape and dtype of its result."""
        node: Node = self.graph.call_function(target, args, kwargs)
        inherited = {
            key: value for key, value in self.at.meta.items() if key in ("stack_trace", "nn_module_stack")
        }
        values = torch.utils._pytree.tree_map(
            lambda a: a.meta["val"] if isinstance(a, Node) else a,
            (args, kwargs),
            is_leaf=lambda a: isinstance(a, Node),
        )
        with self.mode:
            node.meta = {**inherited, "val": target(*values[0], **values[1])}
        return node

    def pair(self, node: Any) -> Pair:
        """The real and the imaginary part of a complex node."""
        return self.pairs[node]

    def either(self, value: Any) -> tuple[Any, Any]:
        """(real, imaginary) of a pair, a real node or a number; None stands for no imaginary part."""
        if isinstance(value, Node):
            return self.pairs.get(value, (value, None))
        if isinstance(value, complex):
            return value.real, value.imag
        return value, None

    def product(self, target: Any, left: tuple[Any, Any], right: tuple[Any, Any]) -> Pair:
        """``(a + bi)(c + di)``, where `target` multiplies real nodes; None stands for a part that is 0."""
        (a, b), (c, d) = left, right

        def times(x: Any, y: Any) -> Any:
            return None if x is None or y is None else self.call(target, *self._promoted(x, y))

        def combine(operator: Any, x: Any, y: Any) -> Any:
            if y is None:
                return x
            if x is None:
                return y if operator is _aten.add.Tensor else self.call(_aten.neg.default, y)
            return self.call(operator, x, y)

        real = combine(_aten.sub.Tensor, times(a, c), times(b, d))
        imaginary = combine(_aten.add.Tensor, times(a, d), times(b, c))
        return real, imaginary

    def _promoted(self, *values: Any) -> tuple[Any, ...]:
        """Nodes cast to their common type, which torch finds by itself and ONNX does not."""
        nodes = [value for value in values if isinstance(value, Node)]
        dtypes = {node.meta["val"].dtype for node in nodes}
        if len(dtypes) < 2:
            return values
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        return tuple(
            self.call(_aten._to_copy.default, value, dtype=dtype) if isinstance(value, Node) else value
            for value in values
        )


def _view_as_complex(graph: PairGraph, node: Node) -> Pair:
    pairs = node.args[0]
    return graph.call(_aten.select.int, pairs, -1, 0), graph.call(_aten.select.int, pairs, -1, 1)


def _view_as_real(graph: PairGraph, node: Node) -> Node:
    return graph.call(_aten.stack.default, list(graph.pair(node.args[0])), -1)


def _complex(graph: PairGraph, node: Node) -> Pair:
    real, imaginary = node.args
    return real, imaginary  # type: ignore[return-value]


def _polar(graph: PairGraph, node: Node) -> Pair:
    size, angle = node.args
    cos, sin = graph.call(_aten.cos.default, angle), graph.call(_aten.sin.default, angle)
    return graph.call(_aten.mul.Tensor, size, cos), graph.call(_aten.mul.Tensor, size, sin)


def _conj(graph: PairGraph, node: Node) -> Pair:
    real, imaginary = graph.pair(node.args[0])
    return real, graph.call(_aten.neg.default, imaginary)


def _same(graph: PairGraph, node: Node) -> Pair:
    return graph.pair(node.args[0])


def _abs(graph: PairGraph, node: Node) -> Node:
    real, imaginary = graph.pair(node.args[0])
    squares = [graph.call(_aten.mul.Tensor, part, part) for part in (real, imaginary)]
    return graph.call(_aten.sqrt.default, graph.call(_aten.add.Tensor, *squares))


def _exp(graph: PairGraph, node: Node) -> Pair:
    real, imaginary = graph.pair(node.args[0])
    size = graph.call(_aten.exp.default, real)
    cos, sin = graph.call(_aten.cos.default, imaginary), graph.call(_aten.sin.default, imaginary)
    return graph.call(_aten.mul.Tensor, size, cos), graph.call(_aten.mul.Tensor, size, sin)


def _div(graph: PairGraph, node: Node) -> Pair:
    (a, b), (c, d) = graph.either(node.args[0]), graph.either(node.args[1])
    if d is None:
        zero = graph.call(_aten.zeros_like.default, a) if b is None else graph.call(node.target, b, c)
        return graph.call(node.target, a, c), zero
    # Multiply by the conjugate of the divisor and divide by its square.
    real, imaginary = graph.product(_aten.mul.Tensor, (a, b), (c, graph.call(_aten.neg.default, d)))
    squares = [graph.call(_aten.mul.Tensor, part, part) for part in (c, d)]
    square = graph.call(_aten.add.Tensor, *squares)
    return graph.call(_aten.div.Tensor, real, square), graph.call(_aten.div.Tensor, imaginary, square)


def _to(graph: PairGraph, node: Node) -> Pair | Node:
    """Casts: between complex types, from a real one (no imaginary part), to a real one (drops it)."""
    source, dtype = node.args[0], node.meta["val"].dtype
    real, imaginary = graph.either(source)
    real = graph.call(_aten._to_copy.default, real, dtype=REAL.get(dtype, dtype))
    if not dtype.is_complex:
        return real
    if imaginary is None:
        return real, graph.call(_aten.zeros_like.default, real)
    return real, graph.call(_aten._to_copy.default, imaginary, dtype=REAL[dtype])


def _pad_sequence(graph: PairGraph, node: Node) -> Pair:
    """A list of sequences, filled up with a real number to the length of the longest."""
    sequences, first, value = (*node.args, False, 0.0)[:3]
    parts = []
    for which, filled in ((0, value), (1, 0.0)):
        items = [graph.pair(item)[which] for item in sequences]  # type: ignore[union-attr]
        parts.append(graph.call(node.target, items, first, filled))
    return parts[0], parts[1]


def _size(graph: PairGraph, node: Node) -> Node:
    return graph.call(node.target, graph.pair(node.args[0])[0], *node.args[1:])


def _nothing(graph: PairGraph, node: Node) -> None:
    """Assertions about a dtype that is no longer there."""


RULES: dict[str, Callable[[PairGraph, Node], Pair | Node | None]] = {
    "view_as_complex": _view_as_complex,
    "view_as_real": _view_as_real,
    "_view_as_real_physical": _view_as_real,
    "complex": _complex,
    "polar": _polar,
    "conj": _conj,
    "_conj": _conj,
    "conj_physical": _conj,
    "_conj_physical": _conj,
    "resolve_conj": _same,
    "real": lambda graph, node: graph.pair(node.args[0])[0],
    "imag": lambda graph, node: graph.pair(node.args[0])[1],
    "abs": _abs,
    "exp": _exp,
    "div": _div,
    "to": _to,
    "_to_copy": _to,
    "type_as": _to,
    "pad_sequence": _pad_sequence,
    "sym_size": _size,
    "sym_numel": _size,
    "_assert_tensor_metadata": _nothing,
}
