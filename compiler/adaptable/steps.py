"""The steps from a weight to a constant: as records, applied to a tensor, and undone where they only move elements."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from artifacts import adaptable as records
from targets.graph.weights import Cast, Merge, Multiply, Pad, Reshape, Slice, Transform, Transpose

MOVING = (Transpose, Reshape, Slice)
"""Steps whose result is a view of what they are given, or a copy of it in another order."""


def recorded(steps: Iterable[Transform]) -> tuple[records.Step, ...] | None:
    """The steps as records; None where one is of a kind that has none."""
    result = []
    for step in steps:
        record = _record(step)
        if record is None:
            return None
        result.append(record)
    return tuple(result)


def _record(step: Transform) -> records.Step | None:
    if isinstance(step, Cast):
        return records.CastStep(to=step.to.name)
    if isinstance(step, Transpose):
        return records.TransposeStep(perm=step.perm)
    if isinstance(step, Reshape):
        return records.ReshapeStep(to=step.to)
    if isinstance(step, Slice):
        return records.SliceStep(axis=step.axis, start=step.start, stop=step.stop)
    if isinstance(step, Pad):
        return records.PadStep(axis=step.axis, after=step.after)
    if isinstance(step, Merge):
        return records.MergeStep(axes=step.axes)
    if isinstance(step, Multiply):
        return records.MultiplyStep(factors=base64.b64encode(step.factors).decode(), axis=step.axis)
    return None


def transforms(steps: Iterable[records.Step]) -> tuple[Transform, ...]:
    """The steps that records are of."""
    return tuple(map(_transform, steps))


def _transform(step: records.Step) -> Transform:
    if isinstance(step, records.CastStep):
        return Cast(ir.DataType[step.to])
    if isinstance(step, records.TransposeStep):
        return Transpose(step.perm)
    if isinstance(step, records.ReshapeStep):
        return Reshape(step.to)
    if isinstance(step, records.SliceStep):
        return Slice(step.axis, step.start, step.stop)
    if isinstance(step, records.PadStep):
        return Pad(step.axis, step.after)
    if isinstance(step, records.MergeStep):
        return Merge(step.axes)
    return Multiply(base64.b64decode(step.factors), step.axis)


_FLOATS = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}


def applied(tensor: torch.Tensor, steps: Sequence[Transform]) -> torch.Tensor:
    """What the steps make of a float tensor; views where they only move elements.

    They are those of `Transform.apply`, with PyTorch's casts, which are several times as fast as NumPy's.
    """
    for step in steps:
        if isinstance(step, Cast) and step.to in _FLOATS:
            tensor = tensor.to(_FLOATS[step.to])
        elif isinstance(step, Transpose):
            tensor = tensor.permute(step.perm)
        elif isinstance(step, Reshape):
            tensor = tensor.reshape(step.to)
        elif isinstance(step, Slice):
            tensor = tensor.narrow(step.axis, step.start, step.stop - step.start)
        else:
            tensor = torch.from_numpy(np.ascontiguousarray(step.apply(tensor.numpy())))
    return tensor


def is_undone(steps: Iterable[Transform]) -> bool:
    """Whether elements of a weight can be told from what the steps made of them."""
    return all(isinstance(step, (*MOVING, Pad, Cast, Multiply)) for step in steps)


@dataclass(frozen=True)
class Box:
    """A part of a weight as a constant holds it: between two ends of each axis, its axes in another order.

    Attributes:
        ends: of each axis of the weight, where the part starts and stops.
        order: the constant's axes, as numbers of the weight's.
    """

    ends: tuple[tuple[int, int], ...]
    order: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(stop - start for start, stop in self.ends)

    def is_apart(self, other: Box) -> bool:
        """Whether no element is in both."""
        return any(
            stop <= start_of_other or stop_of_other <= start
            for (start, stop), (start_of_other, stop_of_other) in zip(self.ends, other.ends, strict=True)
        )


def boxed(shape: Sequence[int], steps: Iterable[Transform]) -> Box | None:
    """What part of a weight of this shape the steps leave; None where they do more than cut, turn and cast it."""
    ends, order = [(0, length) for length in shape], list(range(len(shape)))
    for step in steps:
        if isinstance(step, Transpose):
            order = [order[axis] for axis in step.perm]
        elif isinstance(step, Slice):
            start, stop = ends[order[step.axis]]
            if not 0 <= step.start <= step.stop <= stop - start:
                return None
            ends[order[step.axis]] = start + step.start, start + step.stop
        elif not isinstance(step, Cast):
            return None
    return Box(tuple(ends), tuple(order))


def put_back(
    weight: torch.Tensor, filled: torch.Tensor, steps: Sequence[Transform], values: torch.Tensor
) -> None:
    """Writes into `weight` the elements that `values` holds after `steps`, and marks them in `filled`.

    Args:
        weight: float32, contiguous, of the weight's shape.
        filled: bool, of the same shape.
        values: a float tensor of the shape that the steps end in.

    Raises:
        ValueError: a step cannot be undone.
    """
    values = _without_factors(values, steps)
    moves = [step for step in steps if not isinstance(step, (Cast, Multiply))]
    view, marks = weight, filled
    for step in moves:
        if isinstance(step, Pad):
            view = marks = torch.empty(0)
            break
        view, marks = applied(view, [step]), applied(marks, [step])
    if view.numel() and view.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr():
        view.copy_(values)
        marks.fill_(True)
        return
    # A reshape in another order is a copy: then by the number of each element; 0 is padding.
    numbers = torch.arange(1, weight.numel() + 1).reshape(weight.shape)
    places = applied(numbers, moves).reshape(-1)
    unpadded = places > 0
    weight.view(-1)[places[unpadded] - 1] = values.reshape(-1)[unpadded].float()
    filled.view(-1)[places[unpadded] - 1] = True


def _without_factors(values: torch.Tensor, steps: Sequence[Transform]) -> torch.Tensor:
    """What `values` was before its factors; they come after every move of an axis, or are of that order."""
    factors = [number for number, step in enumerate(steps) if isinstance(step, Multiply)]
    for number in reversed(factors):
        step = steps[number]
        assert isinstance(step, Multiply)
        if any(not isinstance(later, (Cast, Multiply)) for later in steps[number + 1 :]):
            raise ValueError("elements move after they are multiplied")
        by = np.frombuffer(step.factors, np.float32).copy()
        if not by.all():
            raise ValueError("a factor is zero")
        sides = [1] * values.dim()
        sides[step.axis] = len(by)
        values = values.float() / torch.from_numpy(by).reshape(sides)
    return values
