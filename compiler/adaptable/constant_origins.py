"""What a compile keeps of a graph: which of the model's weights each constant is made of, and by which steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from safetensors.torch import save

from artifacts import adaptable as records
from artifacts.adaptable import Adaptable, Constant, Expression, Part, Place, QuantizedConstant
from artifacts.errors import LatentcError
from compiler.adaptable.steps import applied, is_undone, recorded, transforms
from compiler.origins.operation_results import as_tensor
from compiler.quantize.stream import QuantizedWeight
from runtimes.sessions.file_constants import StoredConstant
from targets.graph.weights import Cast, Joined, Multiply, Origin, Pad, Slice, Stored, Transform, WeightRef

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
_LOWER = {"fp16": torch.float16, "bf16": torch.bfloat16}


def describe(
    model: ir.Model,
    quantized: Sequence[QuantizedWeight],
    weights: Mapping[str, Origin],
    used: Collection[str],
) -> Adaptable:
    """How the constants of a graph at the end of its road are made.

    Args:
        quantized: its weights in fewer bits, before their constants.
        weights: of the component: name in the module -> where it comes from.
        used: names of the weights that the graph is made of.
    """
    names: dict[Origin, str] = {}
    for name, origin in weights.items():
        if origin.dtype in _FLOATS:
            names.setdefault(origin, name)
    stored = {
        value.const_value.source: value
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, WeightRef) and isinstance(value.const_value.source, Stored)
    }
    constants = [
        Constant(name=str(value.name), made_of=made_of)
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, WeightRef)
        and (made_of := _expression(value.const_value, names)) is not None
    ]
    in_fewer_bits = [
        record for weight in quantized if (record := _quantized(weight, names, stored)) is not None
    ]
    expressions = [item.made_of for item in constants] + [item.made_of for item in in_fewer_bits]
    covered = {part.weight for expression in expressions for part in expression.parts}
    shapes = {name: weights[name].shape for name in sorted(covered)}
    lost = {names.get(weights[name], name) for name in used if name in weights} - covered
    return Adaptable(
        constants=tuple(constants),
        quantized=tuple(in_fewer_bits),
        weights=shapes,
        kept=tuple(sorted(_untold(expressions, shapes))),
        fixed=tuple(sorted(name for name in lost if weights[name].dtype in _FLOATS)),
    )


def _expression(
    weight: WeightRef, names: Mapping[Origin, str], more: tuple[Transform, ...] = ()
) -> Expression | None:
    """How the constant is made of the component's weights; None where it is not."""
    steps = (*weight.transforms, *more)
    if not isinstance(weight.source, Joined):
        part = _part(weight.source, steps, names)
        return None if part is None else Expression(parts=(part,))
    parts = [_part(ref.source, ref.transforms, names) for ref in weight.source.parts]
    after = recorded(steps)
    if after is None or any(part is None for part in parts):
        return None
    return Expression(parts=tuple(p for p in parts if p is not None), axis=weight.source.axis, steps=after)


def _part(source: Origin, steps: Iterable[Transform], names: Mapping[Origin, str]) -> Part | None:
    name = names.get(source)
    records_of = None if name is None else recorded(steps)
    return None if name is None or records_of is None else Part(weight=name, steps=records_of)


def _quantized(
    weight: QuantizedWeight, names: Mapping[Origin, str], stored: Mapping[Stored, ir.Value]
) -> QuantizedConstant | None:
    layout, decision = weight.initializer.layout, weight.decision
    assert decision.scheme is not None
    more: tuple[Transform, ...] = ()
    if weight.inputs is not None:  # The values are those of a weight that was divided by them.
        more = (Multiply.of(1 / weight.inputs, 1 - layout.channel),)
    made_of = _expression(weight.initializer.weight, names, more)
    if made_of is None:
        return None
    places = {}
    for role in ("values", "scale", "zero", "left", "right"):
        part = getattr(weight, role)
        if part is None:
            continue
        value = stored.get(part)
        steps = recorded(value.const_value.transforms) if value is not None else None  # type: ignore[union-attr]
        if value is None or steps is None:
            return None
        places[role] = Place(name=str(value.name), steps=steps)
    return QuantizedConstant(
        key=weight.initializer.key,
        made_of=made_of,
        scheme=decision.scheme.name,
        options=dataclasses.asdict(decision.options),
        kind=layout.kind,
        shape=layout.shape,
        channel=layout.channel,
        groups=layout.groups,
        places=places,
    )


def _untold(expressions: Iterable[Expression], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Weights some of whose elements no constant tells."""
    told: dict[str, dict[tuple[records.Step, ...], int]] = {name: {} for name in shapes}
    for expression in expressions:
        after = transforms(expression.steps)
        if not is_undone(after) or any(isinstance(step, (Slice, Pad)) for step in after):
            continue
        for part in expression.parts:
            steps = transforms(part.steps)
            moves = [step for step in steps if not isinstance(step, (Cast, Multiply))]
            padded = any(isinstance(step, Pad) for step in moves)
            cut = any(isinstance(step, Slice) for step in moves)
            if not is_undone(steps) or (padded and cut):
                continue
            whole = math.prod(shapes[part.weight])
            seen = applied(torch.empty(shapes[part.weight], device="meta"), moves).numel() if cut else whole
            told[part.weight][tuple(step for step in part.steps if step.kind not in ("cast", "multiply"))] = (
                seen
            )
    return (name for name, shape in shapes.items() if sum(told[name].values()) < math.prod(shape))


def write(folder: Path, adaptable: Adaptable, weights: Mapping[str, Origin], precision: str) -> None:
    """Writes what is kept into a graph's folder.

    Args:
        precision: what the weights that the constants do not tell are stored in, where it holds them.
    """
    (folder / records.FILE).write_text(adaptable.model_dump_json(), encoding="utf-8")
    tensors = {name: _narrowed(weights[name], precision) for name in adaptable.kept}
    if tensors:
        # The library's own writer makes files that nobody else may read.
        (folder / records.WEIGHTS).write_bytes(save(tensors))


def _narrowed(origin: Origin, precision: str) -> torch.Tensor:
    tensor = as_tensor(origin.read(), origin.dtype).float()
    lower = tensor.to(_LOWER[precision]) if precision in _LOWER else tensor
    return (lower if lower.isfinite().all() else tensor).contiguous().clone()


def require_there(
    adaptable: Adaptable, stored: Mapping[str, StoredConstant], graph: str, target: str
) -> None:
    """Whether a target has left the constants as they were.

    Raises:
        LatentcError: it has moved one: what is kept says nothing of its file.
    """
    names = [constant.name for constant in adaptable.constants]
    names += [place.name for record in adaptable.quantized for place in record.places.values()]
    missing = next((name for name in names if name not in stored), None)
    if missing is not None:
        raise LatentcError(
            f"target '{target}' stores the weight '{missing}' of '{graph}' in a form that LoRAs cannot be added to.",
            "Compile it without --adaptable, or with --quantize int8 or int4.",
        )
