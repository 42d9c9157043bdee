"""What a compile will do and what it takes, told before it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from artifacts.disk import free_bytes
from artifacts.manifest import DimRange, Recipe, TensorSpec
from compiler.capture.capture import Capture
from compiler.capture.infer import Method
from targets.graph import nf4_nodes
from targets.graph.weights import Origin

# Python, torch, diffusers, transformers and one component's graph while it is exported, in bytes (measured:
# SD 1.5's UNet, 0.56 GB; SDXL's and FLUX's under 1 GB).
_BASE_MEMORY = 800 * 2**20

# How many copies of the largest weight exist while it is read, cast, transposed and written.
_COPIES = 3

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class PlannedGraph:
    """One graph of the plan. `bytes` is what its weights take on disk; `shapes` is for people.

    `scheme` is how its weights are quantized, empty for not at all.
    """

    component: str
    method: str
    folder: str
    precision: str
    parameters: int
    bytes: int
    shapes: str
    scheme: str = ""


@dataclass(frozen=True)
class Storage:
    """How a graph's weights are stored: the precision, the quantization in words, and a tensor's bytes."""

    precision: str
    scheme: str = ""
    quantized_bytes: Callable[[Origin], int | None] = lambda stored: None


@dataclass(frozen=True)
class Plan:
    """The whole compile: bytes to write and free at the place of OUT, and memory at the peak, in bytes."""

    components: tuple[PlannedGraph, ...]
    total_bytes: int
    free_bytes: int
    peak_memory: int
    notes: tuple[str, ...]
    recipe: Recipe | None = None

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        fields = {name: value for name, value in vars(self).items() if name not in ("components", "recipe")}
        return fields | {
            "components": [asdict(row) for row in self.components],
            "recipe": None if self.recipe is None else self.recipe.model_dump(mode="json"),
        }


def make_plan(
    capture: Capture,
    precision: str,
    out: Path,
    recipe: Recipe | None = None,
    storage: Callable[[Method], Storage] | None = None,
) -> Plan:
    """The plan for everything that `capture` found.

    Args:
        recipe: how the model is quantized, resolved for its components.
        storage: how a method's graph is stored; by default, in `precision`.
    """
    rows = tuple(
        _row(method, capture, Storage(precision) if storage is None else storage(method))
        for method in capture.methods
    )
    largest = max(
        (_elements(s.shape) for names in capture.weights.values() for s in names.values()), default=0
    )
    return Plan(
        components=rows,
        total_bytes=sum(row.bytes for row in rows),
        free_bytes=free_bytes(out),
        peak_memory=_BASE_MEMORY + _COPIES * 4 * largest,
        notes=capture.notes,
        recipe=recipe,
    )


def parameters(method: Method, capture: Capture) -> int:
    """How many elements the stored tensors that the method reads have; a tied one counts once."""
    return sum(_elements(stored.shape) for stored in used_weights(method, capture))


def used_weights(method: Method, capture: Capture) -> frozenset[Origin]:
    """The stored tensors that the method reads."""
    weights = capture.weights[method.component]
    return frozenset(weights[name] for name in method.used if name in weights)


def planned_bytes(method: Method, capture: Capture, storage: Storage) -> int:
    """About what the graph's weights take on disk."""
    total = 0
    for stored in used_weights(method, capture):
        size = storage.quantized_bytes(stored)
        total += _elements(stored.shape) * _BYTES[storage.precision] if size is None else size
    return total


def _row(method: Method, capture: Capture, storage: Storage) -> PlannedGraph:
    return PlannedGraph(
        component=method.component,
        method=method.method,
        folder=method.folder,
        precision=storage.precision,
        parameters=parameters(method, capture),
        bytes=planned_bytes(method, capture, storage),
        shapes=", ".join(f"{spec.name} {_shape(spec, method.dims)}" for spec in method.inputs),
        scheme=storage.scheme,
    )


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
    """Element type ("float16"; "nf4" where uint4 stands for it) -> bytes of the initializers of that type."""
    sizes: dict[str, int] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            name = nf4_nodes.NAME if nf4_nodes.is_indices(value) else tensor.dtype.name.lower()
            sizes[name] = sizes.get(name, 0) + tensor.nbytes
    return sizes
