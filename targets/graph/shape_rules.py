"""The shape of an operator's first output, from its inputs' shapes and contents: a function for each operator."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from targets.graph.constants import constant, int_attribute, ints_attribute
from targets.graph.dims import Dim, Dims, dims, static
from targets.graph.integer_contents import Contents, is_whole, shape_contents, slice_bounds


def broadcast(shapes: list[Dims | None]) -> Dims | None:
    """The shape that these broadcast to, None for a dimension that is not known; None where a rank is not known."""
    if not shapes or any(s is None for s in shapes):
        return None
    rank = max(len(s) for s in shapes)  # type: ignore[arg-type]
    out: list[Dim] = []
    for i in range(-rank, 0):
        axis = [s[i] for s in shapes if s is not None and len(s) >= -i]
        wide = {d for d in axis if d != 1}
        fixed = [d for d in wide if isinstance(d, int)]
        # Where one side is fixed and not 1, that is the result whatever the other, symbolic side is.
        out.append(fixed[0] if fixed else wide.pop() if len(wide) == 1 else None if wide else 1)
    return tuple(out)


def _transpose(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    if first is None:
        return None
    perm = ints_attribute(node, "perm") or tuple(reversed(range(len(first))))
    return tuple(first[i] for i in perm)


def _matmul(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    second = dims(node.inputs[1])
    if first is None or second is None or len(first) < 2 or len(second) < 2:
        return None
    batch = broadcast([first[:-2], second[:-2]])
    return None if batch is None else (*batch, first[-2], second[-1])


def _gemm(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    second = dims(node.inputs[1])
    if first is None or second is None:
        return None
    return (first[int_attribute(node, "transA", 0)], second[1 - int_attribute(node, "transB", 0)])


def _concat(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    parts = [dims(v) for v in node.inputs]
    if first is None or any(p is None or len(p) != len(first) for p in parts):
        return None
    axis = int_attribute(node, "axis", 0) % len(first)
    lengths = [p[axis] for p in parts if p is not None]
    total: Dim = sum(lengths) if all(isinstance(n, int) for n in lengths) else None  # type: ignore[arg-type]
    if len(lengths) == 1:
        total = lengths[0]
    return (*first[:axis], total, *first[axis + 1 :])


def _gather(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    index = dims(node.inputs[1])
    if first is None or index is None:
        return None
    axis = int_attribute(node, "axis", 0) % len(first)
    return (*first[:axis], *index, *first[axis + 1 :])


def _gather_nd(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    index, batch = dims(node.inputs[1]), int_attribute(node, "batch_dims", 0)
    if first is None or index is None or not isinstance(index[-1], int):
        return None
    return (*index[:-1], *first[batch + index[-1] :])


def _slice(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    if first is None:
        return None
    bounds = slice_bounds(contents, node)
    if bounds is None:
        axes = contents.fixed(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
        return (
            (None,) * len(first)
            if axes is None
            else tuple(None if i in {a % len(first) for a in axes} else d for i, d in enumerate(first))
        )
    out = list(first)
    for bound in bounds:
        axis, start, end, step = bound
        dim = first[axis]
        if isinstance(dim, int):
            out[axis] = len(range(dim)[start:end:step])
        elif not is_whole(bound, dim):
            out[axis] = None
    return tuple(out)


def _reshape(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    target = contents.contents(node.inputs[1])
    if target is None:
        rank = static(node.inputs[1])
        return (None,) * rank[0] if rank is not None and len(rank) == 1 else None
    allow_zero = int_attribute(node, "allowzero", 0)
    out: list[Dim] = []
    for i, d in enumerate(target):
        if d == 0 and not allow_zero:
            d = first[i] if first is not None and i < len(first) else None
        out.append(d)
    if -1 in out:
        i = out.index(-1)
        rest = [d for j, d in enumerate(out) if j != i]
        out[i] = None
        if first is not None:
            # Symbolic factors that are on both sides cancel.
            left = list(first)
            for d in rest:
                if not isinstance(d, int) and d is not None and d in left:
                    left.remove(d)
            right = [d for d in rest if isinstance(d, int) or d not in first]
            fixed = math.prod(d for d in right if isinstance(d, int))
            symbols = [d for d in left if not isinstance(d, int)]
            if all(isinstance(d, int) for d in right) and fixed:
                whole = math.prod(d for d in left if isinstance(d, int))
                if not symbols:
                    out[i] = whole // fixed
                elif len(symbols) == 1 and whole == fixed:
                    out[i] = symbols[0]
    return tuple(out)


def _axes(contents: Contents, node: ir.Node) -> tuple[int, ...] | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return contents.fixed(node.inputs[1])
    return ints_attribute(node, "axes")


def _unsqueeze(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    axes = _axes(contents, node)
    if first is None or axes is None:
        return None
    rank = len(first) + len(axes)
    new = {a % rank for a in axes}
    rest = iter(first)
    return tuple(1 if i in new else next(rest) for i in range(rank))


def _squeeze(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    if first is None:
        return None
    axes = _axes(contents, node)
    if axes is None:
        if len(node.inputs) > 1 and node.inputs[1] is not None or not all(isinstance(d, int) for d in first):
            return None
        return tuple(d for d in first if d != 1)
    gone = {a % len(first) for a in axes}
    return tuple(d for i, d in enumerate(first) if i not in gone)


def _expand(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    return broadcast([first, contents.contents(node.inputs[1])])


def _constant_of_shape(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    return contents.contents(node.inputs[0])


def _tile(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    repeats = contents.contents(node.inputs[1])
    if first is None or repeats is None:
        return None
    return tuple(
        d if r == 1 else d * r if isinstance(d, int) and isinstance(r, int) else None
        for d, r in zip(first, repeats, strict=False)
    )


def _range(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    ends = [constant(v) for v in node.inputs]
    if all(e is not None for e in ends):
        start, limit, delta = (float(e.reshape(-1)[0]) for e in ends if e is not None)
        return (max(math.ceil((limit - start) / delta), 0),)
    bounds = [contents.contents(v) for v in node.inputs]  # of integers, which may be sizes
    if any(e is None or len(e) != 1 for e in bounds):
        return (None,)
    begin, end, step = (e[0] for e in bounds if e is not None)
    if isinstance(begin, int) and isinstance(end, int) and isinstance(step, int) and step:
        return (max(-(-(end - begin) // step), 0),)
    return (end,) if (begin, step) == (0, 1) else (None,)


def _shape_of(contents: Contents, node: ir.Node, first: Dims | None) -> Dims | None:
    return None if first is None else (len(shape_contents(contents, node) or ()),)


SHAPE_RULES: dict[str, Callable[[Contents, ir.Node, Dims | None], Dims | None]] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape_of,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
