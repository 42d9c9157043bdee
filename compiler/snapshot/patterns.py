"""Groups of operators that runtimes run as one kernel. A lost one is a slower picture, however right it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

# Moves elements and computes nothing: looked through when one operator is traced to another.
_MOVES = frozenset("Cast Identity Reshape Squeeze Transpose Unsqueeze".split())


def matches(graph: ir.Graph) -> Iterator[tuple[str, ir.Node]]:
    """Every known pattern by name, with the node that it is counted at."""
    for node in graph:
        for name, rule in PATTERNS.items():
            if rule(node):
                yield name, node


def _maker(value: ir.Value | None, *op_types: str, through: frozenset[str] = _MOVES) -> ir.Node | None:
    """The node of one of these types that makes `value`, behind any number of moves."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type not in op_types:
        if node.op_type not in through or not node.inputs or node.inputs[0] is None:
            return None
        node = node.inputs[0].producer()
    return node


def _attention(softmax: ir.Node) -> bool:
    """Attention, as a node or as MatMul, a mask or none, Softmax, MatMul."""
    if softmax.op_type == "Attention":
        return True
    if softmax.op_type != "Softmax":
        return False
    guards = _MOVES | {"Add", "Mul", "Div", "Clip", "Where", "Max"}
    scores = _maker(softmax.inputs[0], "MatMul", through=guards)
    if scores is None:
        scores = next(
            (m for m in (_maker(v, "MatMul", through=guards) for v in _above(softmax)) if m is not None), None
        )
    return scores is not None and any(_reaches(u.node, "MatMul") for u in softmax.outputs[0].uses())


def _above(node: ir.Node) -> Iterator[ir.Value | None]:
    maker = None if node.inputs[0] is None else node.inputs[0].producer()
    if maker is not None:
        yield from maker.inputs


def _reaches(node: ir.Node, op_type: str, depth: int = 4) -> bool:
    if node.op_type == op_type:
        return True
    if depth == 0 or node.op_type not in _MOVES | {"Where", "Mul"}:
        return False
    return any(_reaches(u.node, op_type, depth - 1) for v in node.outputs for u in v.uses())


def _silu(node: ir.Node | None) -> ir.Value | None:
    """What SiLU is taken of, when the node is its Mul: ``x * sigmoid(x)``."""
    if node is None or node.op_type != "Mul":
        return None
    for side in (0, 1):
        gate = _maker(node.inputs[side], "Sigmoid")
        if gate is not None and gate.inputs[0] is node.inputs[1 - side]:
            return gate.inputs[0]
    return None


def _group_norm_silu(node: ir.Node) -> bool:
    return _maker(_silu(node), "GroupNormalization") is not None


def _gate(node: ir.Node, is_gate: Callable[[ir.Node | None], bool]) -> bool:
    """``a * f(b)`` where `a` is not what `f` is taken of."""
    if node.op_type != "Mul" or _silu(node) is not None:
        return False
    for side in (0, 1):
        value = node.inputs[side]
        other = node.inputs[1 - side]
        if value is not None and other is not None and is_gate(value.producer()) and _computed(other):
            return True
    return False


def _computed(value: ir.Value) -> bool:
    return value.const_value is None and value.producer() is not None


def _is_gelu(node: ir.Node | None) -> bool:
    if node is None or node.op_type == "Gelu":
        return node is not None
    if node.op_type != "Mul":  # x * 0.5 * (1 + erf(x / sqrt 2)), in any order
        return False
    through = _MOVES | {"Add", "Mul"}
    return any(_maker(v, "Erf", through=through) is not None for v in node.inputs)


def _rotary(node: ir.Node) -> bool:
    """``x * cos + rotated(x) * sin``: `rotated` puts pieces of x, some negated, together in another order."""
    if node.op_type != "Add":
        return False
    products = [_maker(v, "Mul", through=frozenset({"Cast"})) for v in node.inputs]
    if None in products:
        return False
    for product in products:
        assert product is not None
        for value in product.inputs:
            joined = _maker(value, "Concat")
            if joined is not None and any(_maker(v, "Neg") is not None for v in joined.inputs):
                return True
    return False


def _rotary_complex(node: ir.Node) -> bool:
    """The same as complex products: ``a c - b s`` beside ``a s + b c`` of one pair of halves."""
    if node.op_type != "Sub":
        return False
    halves = [_maker(v, "Mul", through=frozenset()) for v in node.inputs]
    if None in halves:
        return False
    mine = {v for h in halves if h is not None for v in h.inputs}
    if len(mine) != 4:
        return False
    for product in (u.node for v in mine if v is not None for u in v.uses()):
        for add in (u.node for u in product.outputs[0].uses() if product.op_type == "Mul"):
            if add.op_type == "Add":
                others = [_maker(v, "Mul", through=frozenset()) for v in add.inputs]
                if {v for h in others if h is not None for v in h.inputs} == mine:
                    return True
    return False


def _rms_norm(node: ir.Node) -> bool:
    """``x * rsqrt(mean(x^2) + epsilon)``, as a node or in pieces."""
    if node.op_type == "RMSNormalization":
        return True
    if node.op_type not in ("Mul", "Div"):
        return False
    for value in node.inputs:
        root = _maker(value, "Sqrt", through=frozenset({"Reciprocal", "Cast"}))
        mean = (
            None if root is None else _maker(root.inputs[0], "ReduceMean", through=frozenset({"Add", "Cast"}))
        )
        if mean is not None and _maker(mean.inputs[0], "Pow", "Mul", through=frozenset({"Cast"})) is not None:
            return True
    return False


PATTERNS: Mapping[str, Callable[[ir.Node], bool]] = {
    "attention": _attention,
    "GEGLU": lambda node: _gate(node, _is_gelu),
    "SwiGLU": lambda node: _gate(node, lambda gate: _silu(gate) is not None),
    "group norm + SiLU": _group_norm_silu,
    "RMS norm": _rms_norm,
    "rotary embedding": lambda node: _rotary(node) or _rotary_complex(node),
}
