"""The constants of an artifact's graphs as weights of its components, and weights as constants again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from artifacts.adaptable import WEIGHTS, Adaptable, Constant, Expression, QuantizedConstant
from artifacts.errors import LatentcError
from artifacts.manifest import WeightRecord
from artifacts.processors import processors
from compiler.adaptable.steps import Box, applied, boxed, is_undone, put_back, transforms
from compiler.origins.operation_results import as_array, as_tensor
from compiler.origins.stored_file import stored_tensors
from compiler.quantize import scheme_table as table
from compiler.quantize.blocks import Blocks
from compiler.quantize.decide import Decision
from compiler.quantize.find import Layout, QuantizableWeight
from compiler.quantize.scheme import NO_METHOD, Scheme
from compiler.quantize.stream import Scratch, quantize
from runtimes.sessions.file_constants import Replaced, StoredConstant
from targets.graph.weights import Cast, WeightRef

_TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}


@dataclass(frozen=True, eq=False)
class InMemory:
    """A weight that was computed; an origin like any other."""

    key: str
    tensor_now: torch.Tensor
    dtype: ir.DataType = ir.DataType.FLOAT

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self.tensor_now.shape)

    def read(self) -> np.ndarray:
        """The tensor's memory."""
        return self.tensor_now.numpy()


@dataclass(frozen=True)
class GraphConstants:
    """One graph's file, and how its constants are made.

    Attributes:
        folder: the graph's.
        place: the folder on disk.
        stored: the constants of its file.
    """

    folder: str
    place: Path
    adaptable: Adaptable
    stored: Mapping[str, StoredConstant]

    def float_constant(self, name: str) -> torch.Tensor:
        """A constant that holds floats, as it is stored."""
        stored = self.stored[name]
        kind = _TYPES.get(stored.dtype)
        if kind is None:
            raise LatentcError(
                f"'{self.folder}' stores '{name}' as {stored.dtype}.", "Compile the model again."
            )
        return as_tensor(stored.read().view(kind.numpy()).reshape(stored.shape), kind)

    def restored(self, record: QuantizedConstant) -> torch.Tensor:
        """A quantized weight as floats, float32 of its layout's shape."""
        scheme, decision, layout = _decision(record)
        form = scheme.format(decision.options)
        rows, inner = layout.rows, layout.inner
        blocks = inner // (form.block or inner)
        turned = (
            form.block is not None
            and layout.channel == 1
            and len(layout.shape) == 2
            and scheme.restore.turned
        )
        per_block = (blocks, rows) if turned else (rows, blocks)

        def scales(role: str) -> np.ndarray:
            place = record.places[role]
            array = self.float_constant(place.name).float().numpy().reshape(per_block)
            return array.T if turned else array

        values = _numbers(self.stored[record.places["values"].name].read(), form.element, rows * inner)
        zero = None
        if "zero" in record.places:
            zero = _numbers(self.stored[record.places["zero"].name].read(), form.element, rows * blocks)
            zero = zero.reshape(per_block).T if turned else zero.reshape(per_block)
        in_rows = _in_rows(values, layout, scheme.restore.turned, form.block is None)
        restored = scheme.dequantize(Blocks(in_rows, scales("scale"), zero), decision.options)
        if "left" in record.places:
            restored = restored + self._factor(record, "left", (rows, decision.low_rank)) @ self._factor(
                record, "right", (decision.low_rank, inner)
            )
        first = (rows, *(n for i, n in enumerate(layout.shape) if i != layout.channel))
        return torch.from_numpy(restored).reshape(first).movedim(0, layout.channel)

    def _factor(self, record: QuantizedConstant, role: str, shape: tuple[int, int]) -> np.ndarray:
        """A factor of a low-rank correction, float32 of `shape`."""
        place = record.places[role]
        steps = transforms(place.steps)
        tensor = self.float_constant(place.name).reshape(
            applied(torch.empty(shape, device="meta"), steps).shape
        )
        factor = torch.empty(shape)
        put_back(factor, torch.zeros(shape, dtype=torch.bool), steps, tensor)
        return factor.numpy()

    def made_of(self, name: str) -> Iterator[tuple[Expression, Callable[[], torch.Tensor]]]:
        """Each expression that tells of a weight, and what reads what it makes, as stored."""
        for constant in self.adaptable.constants:
            if any(part.weight == name for part in constant.made_of.parts) and _is_told(constant.made_of):
                yield constant.made_of, partial(self.float_constant, constant.name)
        for record in self.adaptable.quantized:
            if any(part.weight == name for part in record.made_of.parts) and _is_told(record.made_of):
                yield record.made_of, partial(self.restored, record)


def _is_told(expression: Expression) -> bool:
    return all(
        is_undone(transforms(steps)) for steps in (expression.steps, *(p.steps for p in expression.parts))
    )


@dataclass(frozen=True, eq=False)
class Restored:
    """A component's weight, float32, from the constants of its graphs; an origin like any other."""

    key: str
    shape: tuple[int, ...]
    graphs: tuple[GraphConstants, ...]
    dtype: ir.DataType = ir.DataType.FLOAT

    def read(self) -> np.ndarray:
        """The weight; see `tensor`."""
        return as_array(self.tensor())

    def tensor(self) -> torch.Tensor:
        """The weight in memory of its own, in the constant's order where its elements only lie in another one.

        Raises:
            LatentcError: the constants do not tell it.
        """
        for graph in self.graphs:
            if self.key in graph.adaptable.kept:
                stored = stored_tensors([graph.place / WEIGHTS])[self.key]
                return as_tensor(stored.read(), stored.dtype).to(torch.float32, copy=True)
        told = [(graph, *told) for graph in self.graphs for told in graph.made_of(self.key)]
        if (whole := self._of_boxes([(expression, read) for _, expression, read in told])) is not None:
            return whole
        weight = torch.empty(self.shape)
        filled = torch.zeros(self.shape, dtype=torch.bool)
        for graph, expression, read in told:
            self._put(weight, filled, expression, read(), graph)
            if filled.all():
                return weight
        raise LatentcError(
            f"the artifact's constants do not tell the weight '{self.key}'.", "Compile the model again."
        )

    def _of_boxes(self, told: Sequence[tuple[Expression, Callable[[], torch.Tensor]]]) -> torch.Tensor | None:
        """The weight, where constants are turned boxes of it that fill it; None for others."""
        boxes: list[tuple[Box, Callable[[], torch.Tensor]]] = []
        for expression, read in told:
            steps = transforms((*expression.parts[0].steps, *expression.steps))
            box = boxed(self.shape, steps) if len(expression.parts) == 1 else None
            if box is not None and all(box.is_apart(other) for other, _ in boxes):
                boxes.append((box, read))
        if sum(box.size for box, _ in boxes) != math.prod(self.shape):
            return None
        # Copies are several times as fast where both lie in one order.
        order = boxes[0][0].order
        turned = torch.empty([self.shape[axis] for axis in order])
        weight = turned.permute([order.index(axis) for axis in range(len(order))])
        for box, read in boxes:
            place = weight[tuple(slice(*ends) for ends in box.ends)].permute(box.order)
            place.copy_(read().reshape(place.shape))
        return weight

    def _put(
        self,
        weight: torch.Tensor,
        filled: torch.Tensor,
        expression: Expression,
        values: torch.Tensor,
        graph: GraphConstants,
    ) -> None:
        shapes = [_part_shape(graph.adaptable, part.weight, part.steps) for part in expression.parts]
        joined = _joined_shape(shapes, expression.axis)
        after = transforms(expression.steps)
        values = values.reshape(applied(torch.empty(joined, device="meta"), after).shape)
        whole = values
        if after:
            whole = torch.empty(joined)
            put_back(whole, torch.zeros(joined, dtype=torch.bool), after, values)
        start = 0
        for part, shape in zip(expression.parts, shapes, strict=True):
            length = shape[expression.axis] if shape else 1
            if part.weight == self.key:
                piece = whole.narrow(expression.axis, start, length) if len(shapes) > 1 else whole
                put_back(weight, filled, transforms(part.steps), piece)
            start += length


def _part_shape(adaptable: Adaptable, weight: str, steps: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = adaptable.weights[weight]
    for step in transforms(steps):
        shape = step.shape(shape)
    return shape


def _joined_shape(shapes: list[tuple[int, ...]], axis: int) -> tuple[int, ...]:
    first = shapes[0]
    if len(shapes) == 1:
        return first
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def _numbers(data: np.ndarray, element: ir.DataType, count: int) -> np.ndarray:
    """Whole numbers as they are stored, int8 or uint8, one to a byte."""
    if element.bitwidth == 8:
        return data.view(element.numpy())
    pairs = np.empty((data.size, 2), np.uint8)
    pairs[:, 0], pairs[:, 1] = data & 15, data >> 4
    numbers = pairs.reshape(-1)[:count]
    return ((numbers ^ 8).view(np.int8) - np.int8(8)) if element.is_signed() else numbers


def _in_rows(values: np.ndarray, layout: Layout, turned: bool, by_row: bool) -> np.ndarray:
    """Values as the file has them -> [rows, inner]."""
    if by_row and len(layout.shape) > 2:
        return np.moveaxis(values.reshape(layout.shape), layout.channel, 0).reshape(layout.rows, layout.inner)
    if layout.channel == 1 and len(layout.shape) == 2 and turned:
        return values.reshape(layout.inner, layout.rows).T
    return values.reshape(layout.rows, layout.inner)


def _decision(record: QuantizedConstant) -> tuple[Scheme[Any], Decision, Layout]:
    scheme = table.get(record.scheme)
    options = scheme.options(**record.options)
    if options.method != NO_METHOD:
        options = options.replaced(method=NO_METHOD)
    return scheme, Decision(scheme, options), Layout(record.kind, record.shape, record.channel, record.groups)


def rewritten(
    graph: GraphConstants, weights: Mapping[str, torch.Tensor], names: Iterable[str], scratch: Path
) -> tuple[Replaced, tuple[WeightRecord, ...]]:
    """The bytes of the constants that the weights `names` are in, and what quantizing them again lost.

    Args:
        weights: name -> float32; read for each constant.
        scratch: an empty folder.

    Raises:
        LatentcError: a constant cannot hold its new values.
    """
    changed = set(names)
    constants: dict[str, np.ndarray] = {}
    records = []
    floats: dict[frozenset[str], list[Constant]] = {}
    for constant in graph.adaptable.constants:
        made_of = frozenset(part.weight for part in constant.made_of.parts)
        if not changed.isdisjoint(made_of):
            floats.setdefault(made_of, []).append(constant)

    def remade(parts: list[Constant]) -> dict[str, np.ndarray]:
        return {constant.name: _remade(graph, constant, weights) for constant in parts}

    # PyTorch lets others run while it computes. Constants of one weight, which is computed for both, stay together.
    with ThreadPoolExecutor(processors()) as pool:
        for replaced in pool.map(remade, floats.values()):
            constants |= replaced
    for number, record in enumerate(graph.adaptable.quantized):
        if changed.isdisjoint(part.weight for part in record.made_of.parts):
            continue
        _, decision, layout = _decision(record)
        weight = InMemory(record.key, _evaluated(record.made_of, weights).float().contiguous())
        value = ir.Value(name=record.key)
        file = scratch / f"{graph.folder}-{number}.bin"
        made_again = quantize(QuantizableWeight(value, WeightRef(weight), layout), decision, Scratch(file))
        for role, place in record.places.items():
            part = WeightRef(getattr(made_again, role), transforms(place.steps))
            stored = graph.stored[place.name]
            data = np.frombuffer(part.tobytes(), np.uint8)
            if data.nbytes != stored.nbytes:
                part = part.then(Cast(_TYPES[stored.dtype]))
                data = np.frombuffer(part.tobytes(), np.uint8)
            constants[place.name] = data
        file.unlink()
        records.append(
            WeightRecord(
                key=record.key,
                scheme=decision.label,
                parameters=weight.tensor_now.numel(),
                bytes=made_again.bytes,
                error=made_again.error,
            )
        )
    return constants, tuple(records)


def _remade(graph: GraphConstants, constant: Constant, weights: Mapping[str, torch.Tensor]) -> np.ndarray:
    """A float constant's new bytes."""
    stored = graph.stored[constant.name]
    kind = _TYPES[stored.dtype]
    wide = _evaluated(constant.made_of, weights)
    converted = applied(wide, [Cast(kind)])
    # Both are NaN where there is one; PyTorch finds them several times as fast in float32 as in half of it.
    if not all(applied(bound, [Cast(kind)]).isfinite() for bound in wide.aminmax()):
        raise LatentcError(
            f"the LoRAs make '{constant.name}' of '{graph.folder}' larger than {stored.dtype} holds.",
            "Take a smaller weight, or compile the model in bf16 or fp32.",
        )
    return as_array(converted).reshape(-1).view(np.uint8)


def _evaluated(expression: Expression, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    parts = [applied(weights[part.weight], transforms(part.steps)) for part in expression.parts]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, expression.axis)
    return applied(whole, transforms(expression.steps))
