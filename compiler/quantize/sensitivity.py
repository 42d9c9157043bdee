"""How much each weight's rounding moves its component's output.

The component's graph is run with its weights as inputs, so that one after the other is exchanged for its
four-bit form while the rest stay as they are. What comes back from a weight, divided by what was put in, is its
sensitivity; the error of any other scheme follows from that scheme's own error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from artifacts import strict_json
from artifacts.disk import write_cached
from artifacts.errors import LatentcError
from artifacts.progress import Event, Progress
from compiler import stand_in
from compiler.quantize import low_rank
from compiler.quantize.allot import Option
from compiler.quantize.decide import NONE, Decision, decide
from compiler.quantize.find import QuantizableWeight, find
from compiler.quantize.scheme import SchemeOptions
from targets.graph.model_copy import copy_of

Candidates = Sequence[tuple[str, SchemeOptions]]
"""What a weight may become, beside staying as it is: schemes by name, with their options."""


@dataclass(frozen=True)
class Measured:
    """One graph's weights: key -> what each may become, with bytes and squared error of the graph's output."""

    folder: str
    options: Mapping[str, tuple[Option, ...]]


def measure(
    model: ir.Model,
    folder: str,
    calls: Sequence[Mapping[str, np.ndarray]],
    candidates: Candidates,
    progress: Progress,
) -> Measured:
    """Measures every weight of a float graph.

    Args:
        model: after the default passes, in fp32; weights on disk. Not changed.
        calls: inputs of a few calls of the component, spread over the timesteps.
        candidates: what the target takes (`compiler.quantize.accept.candidates`).

    Raises:
        LatentcError: a weight is not finite, or an output.
    """
    initializers = find(model)
    weights = {str(f.value.name): np.ascontiguousarray(f.weight.numpy()) for f in initializers}
    result: dict[str, tuple[Option, ...]] = {}
    with stand_in.opened(_with_weights_as_inputs(model, initializers)) as session:
        references = [session.run({**call, **weights}) for call in calls]
        _require_finite(references, folder)
        started = time.perf_counter()
        for number, initializer in enumerate(initializers):
            result[initializer.key] = _options(initializer, weights, session, calls, references, candidates)
            left = (time.perf_counter() - started) / (number + 1) * (len(initializers) - number - 1)
            task = f"{folder}: sensitivity of weights, about {_minutes(left)} left"
            progress(Event(task, number + 1, len(initializers)))
    return Measured(folder, result)


def _require_finite(outputs: Sequence[Mapping[str, np.ndarray]], folder: str) -> None:
    for call in outputs:
        for name, array in call.items():
            if not np.isfinite(array).all():
                raise LatentcError(
                    f"the sensitivities of '{folder}' cannot be measured: its output '{name}' is not finite.",
                    "Name schemes instead, for instance: --quantize int8",
                )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _with_weights_as_inputs(model: ir.Model, initializers: Sequence[QuantizableWeight]) -> ir.Model:
    """A copy of the graph."""
    copy = copy_of(model)
    for initializer in initializers:
        value = copy.graph.initializers.pop(str(initializer.value.name))
        value.const_value = None
        copy.graph.inputs.append(value)
    return copy


def _options(
    initializer: QuantizableWeight,
    weights: Mapping[str, np.ndarray],
    session: Any,
    calls: Sequence[Mapping[str, np.ndarray]],
    references: Sequence[Mapping[str, np.ndarray]],
    candidates: Candidates,
) -> tuple[Option, ...]:
    name = str(initializer.value.name)
    rows = np.ascontiguousarray(_rows(initializer, weights[name]))
    if not np.isfinite(rows).all():
        raise LatentcError(f"the weight '{initializer.key}' holds NaN or infinity: it cannot be quantized.")
    power = float(np.sum(np.square(rows, dtype=np.float64))) or 1.0
    options = [Option(NONE, 2 * rows.size, 0.0)]
    decisions = _decisions(initializer, candidates)
    if not decisions:
        return tuple(options)
    # The coarsest moves the output the most.
    probe = min(decisions, key=lambda decision: decision.bytes(initializer.layout))
    restored = _restored(rows, probe)
    put_in = float(np.sum(np.square(restored - rows, dtype=np.float64))) / power
    exchanged = {**weights, name: _back(initializer, restored)}
    came_out = 0.0
    for call, reference in zip(calls, references, strict=True):
        outputs = session.run({**call, **exchanged})
        came_out += sum(_distance(outputs[key], reference[key]) for key in reference) / len(calls)
    if not np.isfinite(came_out):
        raise LatentcError(
            f"the sensitivity of the weight '{initializer.key}' cannot be measured: in {probe.label} it makes "
            "outputs that are not finite.",
            "Name schemes instead, for instance: --quantize int8",
        )
    rate = came_out / put_in if put_in else 0.0
    for decision in decisions:
        error = float(np.sum(np.square(_restored(rows, decision) - rows, dtype=np.float64))) / power
        options.append(Option(decision.label, decision.bytes(initializer.layout), rate * error))
    return tuple(options)


def _decisions(initializer: QuantizableWeight, candidates: Candidates) -> list[Decision]:
    """The candidates that fit this weight as they are."""
    decisions = [decide(scheme, options, initializer.layout) for scheme, options in candidates]
    return [decision for decision in decisions if not decision.note]


def _restored(rows: np.ndarray, decision: Decision) -> np.ndarray:
    scheme = decision.scheme
    assert scheme is not None
    if not decision.low_rank:
        return scheme.dequantize(scheme.quantize(rows, decision.options), decision.options)
    left, right = low_rank.split(rows, decision.low_rank)
    correction = left.astype(np.float32) @ right.astype(np.float32)
    return (
        scheme.dequantize(scheme.quantize(rows - correction, decision.options), decision.options) + correction
    )


def _rows(initializer: QuantizableWeight, array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, initializer.layout.channel, 0).reshape(
        initializer.layout.rows, initializer.layout.inner
    )


def _back(initializer: QuantizableWeight, rows: np.ndarray) -> np.ndarray:
    layout = initializer.layout
    first = (layout.rows, *(n for i, n in enumerate(layout.shape) if i != layout.channel))
    return np.ascontiguousarray(np.moveaxis(rows.reshape(first), 0, layout.channel))


def _distance(out: np.ndarray, reference: np.ndarray) -> float:
    """Squared relative error."""
    if not np.issubdtype(reference.dtype, np.floating):
        return 0.0
    a, b = out.astype(np.float64), reference.astype(np.float64)
    return float(np.sum((a - b) ** 2) / (np.sum(b**2) or 1.0))


def load(file: Path) -> Measured | None:
    """What an earlier run measured, or None."""
    try:
        data = strict_json.loads(file.read_bytes(), str(file))
        options = {
            k: tuple(Option(str(s), int(b), float(e)) for s, b, e in v) for k, v in data["options"].items()
        }
        return Measured(str(data["folder"]), options)
    except (OSError, LatentcError, KeyError, TypeError, ValueError, AttributeError):
        return None


def save(measured: Measured, file: Path) -> None:
    """Keeps a measurement for later runs; a folder that cannot be written costs time, not function."""
    options = {k: [[o.scheme, o.bytes, o.error] for o in v] for k, v in measured.options.items()}
    write_cached(file, json.dumps({"folder": measured.folder, "options": options}).encode())
