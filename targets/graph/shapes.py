"""Element types and shapes of values that the exporter left without, node by node, reading no weight.

The exporter annotates what PyTorch knew; what it made itself (decompositions, shape arithmetic) is bare.
`Shapes.visit` fills those in from the inputs. It also tracks the *contents* of small integer tensors, whose
elements may be known even where others are symbolic: that is what shape arithmetic is made of.

A dimension is an int, the name of a symbolic dimension, or None for unknown. Equal names are equal sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Union

import numpy as np
import onnx_ir as ir

Dim = Union[int, str, None]
Dims = tuple[Dim, ...]

# Contents are tracked up to this many elements: a shape is never longer.
_LONGEST_SHAPE = 16

_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32})

_LIKE_FIRST = frozenset(
    "Abs Acos Asin Atan BatchNormalization Ceil Celu Clip Cos Cosh CumSum Dropout Elu Erf Exp Floor "
    "Gelu GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization "
    "LeakyRelu Log LogSoftmax LpNormalization Mish Neg Not RMSNormalization Reciprocal Relu Round "
    "ScatterElements ScatterND Selu Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh "
    "ThresholdedRelu Trilu".split()
)
_BROADCAST = frozenset("Add Sub Mul Div Mod Pow Max Min And Or Xor BitShift Mean Sum PRelu".split())
_COMPARE = frozenset("Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor".split())
_SEQUENCES = frozenset("SplitToSequence SequenceConstruct SequenceInsert SequenceErase".split())
_PREDICATE = frozenset("IsNaN IsInf".split())
_REDUCE = frozenset(
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare "
    "ReduceLogSumExp".split()
)


def dims(value: ir.Value | None) -> Dims | None:
    """The dimensions of `value`, or None when not even its rank is known."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def static(value: ir.Value | None) -> tuple[int, ...] | None:
    """The dimensions of `value` when all are fixed, otherwise None."""
    known = dims(value)
    return known if known is not None and all(isinstance(d, int) for d in known) else None  # type: ignore[return-value]


def same(a: Dims | None, b: Dims | None) -> bool:
    """Whether both are surely the same shape."""
    return a is not None and b is not None and a == b and None not in a


def is_small(tensor: ir.TensorProtocol | None) -> bool:
    """Whether a tensor's data is in memory: weights (lazy) and external data are never looked at."""
    return tensor is not None and not isinstance(tensor, (ir.LazyTensor, ir.ExternalTensor))


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The data of a constant that is in memory and cannot be overridden by a caller, otherwise None."""
    if value is None or value.is_graph_input() or not is_small(value.const_value):
        return None
    assert value.const_value is not None
    return value.const_value.numpy()


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list attribute, or None when it is absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def _broadcast(shapes: list[Dims | None]) -> Dims | None:
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


class Shapes:
    """Shape and content knowledge of one graph, filled in topological order by `visit`."""

    def __init__(self) -> None:
        self._contents: dict[ir.Value, Dims] = {}

    def contents(self, value: ir.Value | None) -> Dims | None:
        """What is known of the elements of an integer tensor of rank 0 or 1; None when nothing is."""
        if value is None:
            return None
        known = self._contents.get(value)
        if known is None and value.dtype in _INTEGERS:
            tensor = value.const_value
            if tensor is not None and tensor.size <= _LONGEST_SHAPE and len(tensor.shape) <= 1:
                array = constant(value)
                if array is not None:
                    known = self._contents[value] = tuple(array.reshape(-1).tolist())
        return known

    def visit(self, node: ir.Node) -> None:
        """Fills in what is missing on the node's outputs."""
        if node.domain not in ("", "ai.onnx") or not node.outputs:
            return
        out = node.outputs[0]
        if node.op_type in _SEQUENCES:
            element_type = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
            if element_type is not None:
                out.type = ir.SequenceType(ir.TensorType(element_type))
            return
        if node.op_type == "Split":
            self._split(node)
        if out.type is None:
            dtype = self._dtype(node)
            if dtype is not None:
                out.dtype = dtype
        known = dims(out)
        if known is None or None in known:
            shape = self._shape(node)
            if shape is not None:
                if known is not None and len(known) == len(shape):
                    shape = tuple(f if k is None else k for k, f in zip(known, shape, strict=False))
                out.shape = ir.Shape(shape)
        if out.dtype in _INTEGERS:
            rule = _CONTENTS.get(node.op_type)
            elements = None if rule is None else rule(self, node)
            if (
                elements is not None
                and len(elements) <= _LONGEST_SHAPE
                and any(e is not None for e in elements)
            ):
                self._contents[out] = elements

    def _split(self, node: ir.Node) -> None:
        """The lengths of the parts, where they are known; equal ones where no lengths are given."""
        shape = dims(node.inputs[0])
        if shape is None:
            return
        axis = int_attribute(node, "axis", 0) % len(shape)
        lengths: Dims | None
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            lengths = self.contents(node.inputs[1])
        else:
            count, length = len(node.outputs), shape[axis]
            even = isinstance(length, int) and length % count == 0
            lengths = (length // count,) * count if isinstance(length, int) and even else None
        if lengths is None or len(lengths) != len(node.outputs):
            lengths = (None,) * len(node.outputs)
        for part, length in zip(node.outputs, lengths, strict=True):
            known = dims(part)
            if known is None or None in known:
                part.shape = ir.Shape([*shape[:axis], length, *shape[axis + 1 :]])
            if part.type is None and node.inputs[0] is not None and node.inputs[0].dtype is not None:
                part.dtype = node.inputs[0].dtype

    # --- element types ---------------------------------------------------------------------------

    def _dtype(self, node: ir.Node) -> ir.DataType | None:
        op = node.op_type
        if op in _COMPARE or op in _PREDICATE:
            return ir.DataType.BOOL
        if op in ("Shape", "Size", "ArgMax", "ArgMin", "NonZero"):
            return ir.DataType.INT64
        if op == "Cast":
            return ir.DataType(int_attribute(node, "to", 1))
        if op == "ConstantOfShape":
            filling = node.attributes.get("value")
            return ir.DataType.FLOAT if filling is None else filling.as_tensor().dtype
        if op == "CastLike" or op == "Where":
            return node.inputs[1].dtype if node.inputs[1] is not None else None
        if op in ("If", "Loop", "Scan", "DequantizeLinear", "QuantizeLinear"):
            return None
        for value in node.inputs:
            return None if value is None else value.dtype
        return None

    # --- shapes ----------------------------------------------------------------------------------

    def _shape(self, node: ir.Node) -> Dims | None:
        op = node.op_type
        first = dims(node.inputs[0]) if node.inputs else None
        if op in _LIKE_FIRST or op in _PREDICATE or op in ("Cast", "CastLike"):
            return first
        if op in _BROADCAST or op in _COMPARE or op == "Where":
            return _broadcast([dims(v) for v in node.inputs])
        if op in _REDUCE:
            return self._reduced(node, first)
        rule = _SHAPES.get(op)
        return None if rule is None else rule(self, node, first)

    def _reduced(self, node: ir.Node, first: Dims | None) -> Dims | None:
        if first is None:
            return None
        keep = bool(int_attribute(node, "keepdims", 1))
        axes = ints_attribute(node, "axes")
        if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
            known = self.contents(node.inputs[1])
            if known is None or not all(isinstance(a, int) for a in known):
                return None
            axes = known  # type: ignore[assignment]
        if not axes:
            if int_attribute(node, "noop_with_empty_axes", 0):
                return first
            axes = tuple(range(len(first)))
        gone = {a % len(first) for a in axes}
        return tuple(1 if i in gone else d for i, d in enumerate(first) if keep or i not in gone)

    def fixed(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """All elements of a small integer tensor when every one is known, otherwise None."""
        known = self.contents(value)
        return known if known is not None and all(isinstance(e, int) for e in known) else None  # type: ignore[return-value]


def _transpose(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    if first is None:
        return None
    perm = ints_attribute(node, "perm") or tuple(reversed(range(len(first))))
    return tuple(first[i] for i in perm)


def _matmul(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    second = dims(node.inputs[1])
    if first is None or second is None or len(first) < 2 or len(second) < 2:
        return None
    batch = _broadcast([first[:-2], second[:-2]])
    return None if batch is None else (*batch, first[-2], second[-1])


def _gemm(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    second = dims(node.inputs[1])
    if first is None or second is None:
        return None
    return (first[int_attribute(node, "transA", 0)], second[1 - int_attribute(node, "transB", 0)])


def _concat(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    parts = [dims(v) for v in node.inputs]
    if first is None or any(p is None or len(p) != len(first) for p in parts):
        return None
    axis = int_attribute(node, "axis", 0) % len(first)
    lengths = [p[axis] for p in parts if p is not None]
    total: Dim = sum(lengths) if all(isinstance(n, int) for n in lengths) else None  # type: ignore[arg-type]
    if len(lengths) == 1:
        total = lengths[0]
    return (*first[:axis], total, *first[axis + 1 :])


def _gather(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    index = dims(node.inputs[1])
    if first is None or index is None:
        return None
    axis = int_attribute(node, "axis", 0) % len(first)
    return (*first[:axis], *index, *first[axis + 1 :])


def _gather_nd(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    index, batch = dims(node.inputs[1]), int_attribute(node, "batch_dims", 0)
    if first is None or index is None or not isinstance(index[-1], int):
        return None
    return (*index[:-1], *first[batch + index[-1] :])


def slice_bounds(shapes: Shapes, node: ir.Node) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, end, step) of a Slice node as written, when all are constants, otherwise None."""
    first = dims(node.inputs[0])
    starts, ends = shapes.fixed(node.inputs[1]), shapes.fixed(node.inputs[2])
    if first is None or starts is None or ends is None:
        return None
    axes: tuple[int, ...] | None = tuple(range(len(starts)))
    steps: tuple[int, ...] | None = (1,) * len(starts)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = shapes.fixed(node.inputs[3])
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        steps = shapes.fixed(node.inputs[4])
    if axes is None or steps is None:
        return None
    return [(a % len(first), s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=False)]


# From here on an end means "to the end" whatever the size: exporters write the largest int64.
_TO_THE_END = 2**31 - 1


def is_whole(bounds: tuple[int, int, int, int], dim: Dim) -> bool:
    """Whether a slice of an axis of size `dim` takes all of it."""
    _, start, end, step = bounds
    if step != 1:
        return False
    if isinstance(dim, int):
        return range(dim)[start:end] == range(dim)
    return start == 0 and end >= _TO_THE_END


def _slice(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    if first is None:
        return None
    bounds = slice_bounds(shapes, node)
    if bounds is None:
        axes = shapes.fixed(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
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


def _reshape(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    target = shapes.contents(node.inputs[1])
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


def _axes(shapes: Shapes, node: ir.Node) -> tuple[int, ...] | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return shapes.fixed(node.inputs[1])
    return ints_attribute(node, "axes")


def _unsqueeze(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    axes = _axes(shapes, node)
    if first is None or axes is None:
        return None
    rank = len(first) + len(axes)
    new = {a % rank for a in axes}
    rest = iter(first)
    return tuple(1 if i in new else next(rest) for i in range(rank))


def _squeeze(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    if first is None:
        return None
    axes = _axes(shapes, node)
    if axes is None:
        if len(node.inputs) > 1 and node.inputs[1] is not None or not all(isinstance(d, int) for d in first):
            return None
        return tuple(d for d in first if d != 1)
    gone = {a % len(first) for a in axes}
    return tuple(d for i, d in enumerate(first) if i not in gone)


def _expand(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    return _broadcast([first, shapes.contents(node.inputs[1])])


def _constant_of_shape(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    return shapes.contents(node.inputs[0])


def _tile(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    repeats = shapes.contents(node.inputs[1])
    if first is None or repeats is None:
        return None
    return tuple(
        d if r == 1 else d * r if isinstance(d, int) and isinstance(r, int) else None
        for d, r in zip(first, repeats, strict=False)
    )


def _range(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    ends = [constant(v) for v in node.inputs]
    if all(e is not None for e in ends):
        start, limit, delta = (float(e.reshape(-1)[0]) for e in ends if e is not None)
        return (max(math.ceil((limit - start) / delta), 0),)
    known = [shapes.contents(v) for v in node.inputs]  # of integers, which may be sizes
    if any(e is None or len(e) != 1 for e in known):
        return (None,)
    begin, end, step = (e[0] for e in known if e is not None)
    if isinstance(begin, int) and isinstance(end, int) and isinstance(step, int) and step:
        return (max(-(-(end - begin) // step), 0),)
    return (end,) if (begin, step) == (0, 1) else (None,)


def _shape_of(shapes: Shapes, node: ir.Node, first: Dims | None) -> Dims | None:
    return None if first is None else (len(_shape_contents(shapes, node) or ()),)


_SHAPES: dict[str, Callable[[Shapes, ir.Node, Dims | None], Dims | None]] = {
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


# --- contents of integer tensors -----------------------------------------------------------------


def _shape_contents(shapes: Shapes, node: ir.Node) -> Dims | None:
    first = dims(node.inputs[0])
    if first is None:
        return None
    end = node.attributes.get("end")
    return first[int_attribute(node, "start", 0) : None if end is None else end.as_int()]


def _passed_on(shapes: Shapes, node: ir.Node) -> Dims | None:
    rank = dims(node.outputs[0])
    return shapes.contents(node.inputs[0]) if rank is not None and len(rank) <= 1 else None


def _cast_contents(shapes: Shapes, node: ir.Node) -> Dims | None:
    known = _passed_on(shapes, node)
    if known is None or node.outputs[0].dtype == ir.DataType.INT64:
        return known
    return tuple(None if isinstance(e, int) and not -(2**31) <= e < 2**31 else e for e in known)


def _joined(shapes: Shapes, node: ir.Node) -> Dims | None:
    out: list[Dim] = []
    for value in node.inputs:
        part = shapes.contents(value)
        if part is None:
            length = static(value)
            if length is None or len(length) != 1 or length[0] > _LONGEST_SHAPE:
                return None
            part = (None,) * length[0]
        out.extend(part)
    return tuple(out)


def _gathered(shapes: Shapes, node: ir.Node) -> Dims | None:
    data, index = shapes.contents(node.inputs[0]), shapes.fixed(node.inputs[1])
    if data is None or index is None or len(dims(node.inputs[0]) or ()) != 1:
        return None
    return tuple(data[i] for i in index) if all(-len(data) <= i < len(data) for i in index) else None


def _sliced(shapes: Shapes, node: ir.Node) -> Dims | None:
    data, bounds = shapes.contents(node.inputs[0]), slice_bounds(shapes, node)
    if data is None or bounds is None or len(bounds) != 1:
        return None
    _, start, end, step = bounds[0]
    return data[start:end:step]


def _arithmetic(shapes: Shapes, node: ir.Node) -> Dims | None:
    a, b = shapes.contents(node.inputs[0]), shapes.contents(node.inputs[1])
    if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
        return None
    length = max(len(a), len(b))
    a, b = (x * length if len(x) == 1 else x for x in (a, b))
    return tuple(_element(node.op_type, x, y) for x, y in zip(a, b, strict=False))


def _element(op: str, x: Dim, y: Dim) -> Dim:
    if isinstance(x, int) and isinstance(y, int):
        if op == "Div":  # ONNX divides integers towards zero
            return None if y == 0 else int(math.copysign(1, x) * math.copysign(1, y)) * (abs(x) // abs(y))
        return {"Add": x + y, "Sub": x - y, "Mul": x * y}[op]
    if op in ("Add", "Sub") and y == 0 or op in ("Mul", "Div") and y == 1:
        return x
    if op == "Add" and x == 0 or op == "Mul" and x == 1:
        return y
    return None


_CONTENTS: dict[str, Callable[[Shapes, ir.Node], Dims | None]] = {
    "Add": _arithmetic,
    "Cast": _cast_contents,
    "Concat": _joined,
    "Div": _arithmetic,
    "Gather": _gathered,
    "Identity": _passed_on,
    "Mul": _arithmetic,
    "Reshape": _passed_on,
    "Shape": _shape_contents,
    "Slice": _sliced,
    "Squeeze": _passed_on,
    "Sub": _arithmetic,
    "Unsqueeze": _passed_on,
}
