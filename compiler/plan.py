"""What a compile will do and what it takes, told before it starts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from artifacts.disk import free_bytes
from artifacts.manifest import DimRange, TensorSpec
from compiler.capture.capture import Capture
from compiler.capture.infer import Method

# Python, torch, diffusers, transformers and one component's graph while it is exported, in bytes (measured:
# SD 1.5's UNet, 0.56 GB; SDXL's and FLUX's under 1 GB).
_BASE_MEMORY = 800 * 2**20

# How many copies of the largest weight exist while it is read, cast, transposed and written.
_COPIES = 3

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class PlannedGraph:
    """One graph of the plan. `bytes` is what its weights take on disk; `shapes` is for people."""

    component: str
    method: str
    folder: str
    precision: str
    parameters: int
    bytes: int
    shapes: str


@dataclass(frozen=True)
class Plan:
    """The whole compile: bytes to write and free at the place of OUT, and memory at the peak, in bytes."""

    components: tuple[PlannedGraph, ...]
    total_bytes: int
    free_bytes: int
    peak_memory: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return asdict(self)


def make_plan(capture: Capture, precision: str, out: Path) -> Plan:
    """The plan for everything that `capture` found."""
    rows = tuple(_row(method, capture, precision) for method in capture.methods)
    largest = max(
        (_elements(s.shape) for names in capture.weights.values() for s in names.values()), default=0
    )
    return Plan(
        components=rows,
        total_bytes=sum(row.bytes for row in rows),
        free_bytes=free_bytes(out),
        peak_memory=_BASE_MEMORY + _COPIES * 4 * largest,
        notes=capture.notes,
    )


def parameters(method: Method, capture: Capture) -> int:
    """How many elements the stored tensors that the method reads have; a tied one counts once."""
    weights = capture.weights[method.component]
    used = {weights[name] for name in method.used if name in weights}
    return sum(_elements(stored.shape) for stored in used)


def _row(method: Method, capture: Capture, precision: str) -> PlannedGraph:
    count = parameters(method, capture)
    shapes = ", ".join(f"{spec.name} {_shape(spec, method.dims)}" for spec in method.inputs)
    written = count * _BYTES[precision]
    return PlannedGraph(method.component, method.method, method.folder, precision, count, written, shapes)


def _shape(spec: TensorSpec, dims: dict[str, DimRange]) -> str:
    return "[" + ", ".join(_dim(size, dims) for size in spec.shape) + "]"


def _dim(size: int | str, dims: dict[str, DimRange]) -> str:
    if isinstance(size, int):
        return str(size)
    span = dims.get(size)
    return f"{size} {span.min}..{span.max}" if span else size


def _elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def bytes_by_type(model: ir.Model) -> dict[str, int]:
    """Element type ("float16") -> bytes of the initializers of that type."""
    found: dict[str, int] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            name = tensor.dtype.name.lower()
            found[name] = found.get(name, 0) + tensor.nbytes
    return found
