"""Operators that torch.onnx has no translation for, written as those it has.

One of them in a program has torch.onnx decompose all of it, by tracing it anew under symbolic shapes: that takes longer
than everything else. What has no rule here, or does not fit its rule, is decomposed.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.fx import Graph, Node

_aten: Any = torch.ops.aten


def use_known_operators(graph: Graph) -> None:
    """Replaces the operators that have a rule here, in place; results and their types stay the same.

    Args:
        graph: of an exported program, its nodes with the fake tensors they make ("val").
    """
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        with graph.inserting_before(node):
            rule = _RULES.get(node.target, _functional if node.target._schema.is_mutable else None)
            result = None if rule is None else rule(graph, node)
        if result is not None:
            node.replace_all_uses_with(result)
            graph.erase_node(node)


def slice_chunks(graph: Graph) -> None:
    """Replaces chunks of symbolic size by slices, in place.

    For programs that will be decomposed: torch makes of such a chunk a split into a sequence, of sizes that are
    computed, which few runtimes take. torch.onnx translates the chunk itself well.
    """
    for node in list(graph.nodes):
        parts = node.meta.get("val")
        if node.target is not _aten.chunk.default or not isinstance(parts, (list, tuple)):
            continue
        x, count, *rest = node.args
        axis = rest[0] if rest else node.kwargs.get("dim", 0)
        size = parts[0].shape[axis]
        if (
            isinstance(size, int)
            or len(parts) != count
            or any(part.shape != parts[0].shape for part in parts)
        ):
            continue
        with graph.inserting_before(node):
            whole = graph.call_function(_aten.sym_size.int, (x, axis))
            whole.meta["val"] = x.meta["val"].shape[axis]
            more = graph.call_function(operator.add, (whole, count - 1))
            more.meta["val"] = whole.meta["val"] + count - 1
            step = graph.call_function(operator.floordiv, (more, count))
            step.meta["val"] = more.meta["val"] // count
            for user in list(node.users):
                index = user.args[1]
                ends = []
                for factor in (index, index + 1):
                    end = graph.call_function(operator.mul, (step, factor))
                    end.meta["val"] = step.meta["val"] * factor
                    ends.append(end)
                user.replace_all_uses_with(_made(graph, user, _aten.slice.Tensor, x, axis, *ends))
                graph.erase_node(user)
            graph.erase_node(node)


def _made(graph: Graph, like: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
    """A node that makes what `like` makes."""
    node = graph.call_function(target, args, kwargs)
    node.meta = dict(like.meta)
    return node


def _outer(graph: Graph, node: Node) -> Node:
    """An outer product promotes types, and torch.onnx promotes those of a product."""
    parts = []
    for operand, axis in zip(node.args, (1, 0), strict=True):
        part = graph.call_function(_aten.unsqueeze.default, (operand, axis))
        part.meta = {**node.meta, "val": operand.meta["val"].unsqueeze(axis)}  # type: ignore[union-attr]
        parts.append(part)
    return _made(graph, node, _aten.mul.Tensor, *parts)


def _and(graph: Graph, node: Node) -> Node:
    return _made(graph, node, _aten.bitwise_and.Tensor, *node.args)


def _or(graph: Graph, node: Node) -> Node:
    return _made(graph, node, _aten.bitwise_or.Tensor, *node.args)


def _number_minus(graph: Graph, node: Node) -> Node | None:
    """x.rsub(number) is number - x."""
    x, number, *alpha = node.args
    result = node.meta["val"]
    if not isinstance(number, (int, float)) or alpha or node.kwargs or result.dtype != x.meta["val"].dtype:  # type: ignore[union-attr]
        return None
    constant = graph.call_function(_aten.full.default, ([], number), {"dtype": result.dtype})
    constant.meta = {**node.meta, "val": result.new_empty(())}
    return _made(graph, node, _aten.sub.Tensor, constant, x)


def _transposed(graph: Graph, node: Node) -> Node:
    """The transposed convolutions as the general one, whose arguments have another order and are all there."""
    rank = node.meta["val"].dim() - 2
    defaults: tuple[Any, ...] = (None, None, None, [1] * rank, [0] * rank, [0] * rank, 1, [1] * rank)
    args = (*node.args, *defaults[len(node.args) :])
    x, weight, bias, stride, padding, output_padding, groups, dilation = args
    arguments = (x, weight, bias, stride, padding, dilation, True, output_padding, groups)
    return _made(graph, node, _aten.convolution.default, *arguments)


def _conv3d(graph: Graph, node: Node) -> Node | None:
    """Without a bias, torch.onnx makes one up of the wrong shape; of the general convolution it does not."""
    defaults: tuple[Any, ...] = (None, None, None, [1] * 3, [0] * 3, [1] * 3, 1)
    args: tuple[Any, ...] = (*node.args, *defaults[len(node.args) :])
    x, weight, bias, stride, padding, dilation, groups = args
    if bias is not None or node.kwargs:
        return None
    return _made(
        graph,
        node,
        _aten.convolution.default,
        x,
        weight,
        None,
        stride,
        padding,
        dilation,
        False,
        [0] * 3,
        groups,
    )


def _nearest_exact(graph: Graph, node: Node) -> Node | None:
    """By a whole factor, the exact nearest neighbour is the usual one: (i + 0.5) / n and i / n have one floor."""
    x, size, factors = node.args
    if size is not None or not isinstance(factors, Iterable):
        return None
    if not all(isinstance(f, (int, float)) and float(f).is_integer() and f >= 1 for f in factors):
        return None
    return _made(graph, node, _aten.upsample_nearest2d.vec, x, None, factors)


def _diagonal(graph: Graph, node: Node) -> Node | None:
    """x.fill_diagonal_(value) of a matrix, by a mask: torch's own strides over x, which it cannot do to a view."""
    x, value, *wrap = node.args
    matrix = node.meta["val"]
    if matrix.dim() != 2 or any(wrap) or node.kwargs.get("wrap"):
        return None
    sizes = []
    for axis, size in enumerate(matrix.shape):
        if not isinstance(size, int):
            size, symbol = graph.call_function(_aten.sym_size.int, (x, axis)), size
            size.meta["val"] = symbol
        sizes.append(size)
    mask = graph.call_function(_aten.eye.m, tuple(sizes), {"dtype": torch.bool})
    mask.meta = {**node.meta, "val": matrix.new_empty(matrix.shape, dtype=torch.bool)}
    return _made(graph, node, _aten.masked_fill_.Scalar, x, mask, value)


def _index(user: Node) -> int:
    """Which of several results a node takes; -1 for another node."""
    index: Any = user.args[1] if user.target is operator.getitem else -1
    return int(index)


def _norm_in_pieces(graph: Graph, node: Node, x: Any) -> bool:
    """Norms of groups of rows, put together again, as one; whether that was done. Each row is normalized by itself."""
    getitems = sorted(node.users, key=_index)
    norms = [next(iter(user.users)) for user in getitems if len(user.users) == 1]
    if not norms or len(norms) != len(node.meta["val"]) or any(len(norm.users) != 1 for norm in norms):
        return False
    (joined, *others) = {user: None for norm in norms for user in norm.users}
    alike = {(norm.target, norm.args[1:], tuple(norm.kwargs.items())) for norm in norms}
    is_norm = norms[0].target is _aten.group_norm.default and len(alike) == 1 and not others
    if not is_norm or joined.target is not _aten.cat.default or joined.args not in ((norms,), (norms, 0)):
        return False
    with graph.inserting_before(joined):
        whole = _made(graph, joined, norms[0].target, x, *norms[0].args[1:], **norms[0].kwargs)
    joined.replace_all_uses_with(whole)
    for unused in (joined, *norms, *getitems, node):
        graph.erase_node(unused)
    return True


def _split(graph: Graph, node: Node) -> None:
    """Pieces of an axis of symbolic size as slices, the last to the axis' end, which torch.onnx makes a sequence of.

    As many pieces as the example has: where an axis is shorter, its last ones are empty.
    """
    pieces = node.meta["val"]
    x, size, *rest = node.args
    axis = rest[0] if rest else node.kwargs.get("dim", 0)
    if axis == 0 and _norm_in_pieces(graph, node, x):
        return
    symbolic = isinstance(pieces, (list, tuple)) and any(not isinstance(p.shape[axis], int) for p in pieces)
    if not symbolic or not isinstance(size, int) or any(u.target is not operator.getitem for u in node.users):
        return
    for user in list(node.users):
        index = _index(user) % len(pieces)
        end = (index + 1) * size if index + 1 < len(pieces) else sys.maxsize
        user.replace_all_uses_with(_made(graph, user, _aten.slice.Tensor, x, axis, index * size, end))
        graph.erase_node(user)
    graph.erase_node(node)


def _same(graph: Graph, node: Node) -> Any:
    return node.args[0]


def _functional(graph: Graph, node: Node) -> Node | None:
    """x.add_(y) as add(x, y), which everything behind it reads in place of x.

    Only where x is a fresh result that nothing else is a view of.
    """
    packet = node.target._opname  # type: ignore[union-attr]
    x = node.args[0]
    if not packet.endswith("_") or not hasattr(_aten, packet[:-1]) or not isinstance(x, Node):
        return None
    functional = getattr(getattr(_aten, packet[:-1]), node.target._overloadname, None)  # type: ignore[union-attr]
    fresh = x.op == "call_function" and not _is_view(x)
    if functional is None or not fresh or any(_is_view(user) for user in x.users if user is not node):
        return None
    if node.meta["val"].dtype != functional(*_values(node)).dtype:
        return None
    replacement = _made(graph, node, functional, *node.args, **node.kwargs)
    behind = set(_after(node))
    x.replace_all_uses_with(replacement, delete_user_cb=lambda user: user in behind)
    return replacement


def _values(node: Node) -> tuple[Any, ...]:
    values: tuple[Any, ...] = torch.fx.node.map_arg(node.args, lambda arg: arg.meta["val"])
    return values


def _after(node: Node) -> Iterable[Node]:
    while node.next.op != "root":
        node = node.next
        yield node


def _is_view(node: Node) -> bool:
    """Whether its result may share memory with an argument."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    schema = node.target._schema
    # What returns its argument where nothing is to be done does not say so in its schema's aliases.
    maybe = torch.Tag.maybe_aliasing_or_mutating in node.target.tags
    return maybe or any(r.alias_info is not None for r in schema.returns)


_RULES: dict[Any, Callable[[Graph, Node], Node | None]] = {
    _aten.outer.default: _outer,
    _aten.__and__.Tensor: _and,
    _aten.__or__.Tensor: _or,
    _aten.rsub.Scalar: _number_minus,
    _aten.conv3d.default: _conv3d,
    _aten.conv_transpose1d.default: _transposed,
    _aten.conv_transpose2d.input: _transposed,
    _aten.conv_transpose3d.input: _transposed,
    _aten._upsample_nearest_exact2d.vec: _nearest_exact,
    _aten.detach_.default: _same,
    _aten.split.Tensor: _split,
    _aten.fill_diagonal_.default: _diagonal,
}
