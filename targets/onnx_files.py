"""An ONNX graph as files: streamed external data, and symbolic dimensions made fixed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError, UsageError
from artifacts.progress import Event, Progress

if TYPE_CHECKING:
    import onnx_ir as ir

# Tensors up to one page are stored in the model file; larger ones start on a page of the data file, so that
# every mapped tensor is aligned for any element type and any mapping granularity but Windows', which runtimes
# round down themselves.
PAGE = 4096


def parse_fixed(text: str) -> dict[str, int]:
    """``"batch=2,height=64"`` -> ``{"batch": 2, "height": 64}``.

    Raises:
        UsageError: not of that form.
    """
    fixed: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        if not name.strip() or not value.strip().isdigit() or int(value) < 1:
            raise UsageError(
                f"fixed dimensions are written name=size, with commas between them; found '{part}'.",
                "For instance: batch=2,height=64",
            )
        fixed[name.strip()] = int(value)
    return fixed


def fix_dims(graph: ir.Model, fixed: Mapping[str, int]) -> ir.Model:
    """A copy of `graph` (weights shared) whose symbolic dimensions in `fixed` have those sizes.

    Returns `graph` itself when there is nothing to fix.

    Raises:
        UsageError: the graph's inputs have no such dimension.
    """
    if not fixed:
        return graph
    import onnx_ir as ir

    symbols = {
        str(d.value) for v in graph.graph.inputs for d in (v.shape or ()) if isinstance(d, ir.SymbolicDim)
    }
    unknown = sorted(set(fixed) - symbols)
    if unknown:
        there = ", ".join(sorted(symbols)) or "none"
        raise UsageError(f"the graph has no symbolic dimension '{unknown[0]}' (it has: {there}).")
    copy = graph.clone()
    seen: set[int] = set()

    def fix(value: ir.Value | None) -> None:
        if value is None or id(value) in seen or value.shape is None:
            return
        seen.add(id(value))
        value.shape = ir.Shape(
            [fixed.get(str(d.value), d) if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
        )

    for value in copy.graph.inputs:
        fix(value)
    for node in copy.graph.all_nodes():
        for value in node.outputs:
            fix(value)
    return copy


def require_static(graph: ir.Model, target: str) -> None:
    """Raises LatentcError when an input of `graph` still has a symbolic dimension."""
    for value in graph.graph.inputs:
        if value.shape is None or value.shape.is_dynamic():
            raise LatentcError(f"target '{target}' takes fixed shapes only; '{value.name}' is {value.shape}.")


def write_onnx(graph: ir.Model, model_file: Path, progress: Progress, task: str) -> tuple[str, ...]:
    """Writes `model_file` and, beside it, ``<model_file>_data`` with every tensor of more than one page.

    Each lazy initializer is read once, while it is written, and not kept.

    Returns:
        The names of the files that were written.

    Raises:
        LatentcError: the disk is full or the folder is not writable.
    """
    import onnx_ir as ir

    data = model_file.name + "_data"
    tensors = [
        v.const_value for g in graph.graphs() for v in g.initializers.values() if v.const_value is not None
    ]
    total = sum(t.nbytes for t in tensors if t.nbytes > PAGE)
    done = 0
    last: Any = None

    # The callback comes before each tensor is written.
    def report(tensor: Any, info: Any) -> None:
        nonlocal done, last
        if last is not None:
            done += last.nbytes
        last = tensor
        progress(Event(task, done, total, "bytes"))

    try:
        ir.save(
            graph,
            model_file,
            external_data=data,
            size_threshold_bytes=PAGE,
            alignment=PAGE,
            align_threshold=PAGE,
            callback=report,
        )
    except OSError as error:
        raise LatentcError(
            f"cannot write {model_file.parent} ({total / 1e9:.2f} GB of weights): {error}.",
            "Free some space or choose another folder.",
        ) from error
    progress(Event(task, total, total, "bytes"))
    return tuple(n for n in (model_file.name, data) if (model_file.parent / n).is_file())
