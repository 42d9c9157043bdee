"""An ONNX graph as files: streamed external data, and symbolic dimensions made fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError, UsageError
from artifacts.progress import Event, Progress
from artifacts.units import whole_number
from targets.graph.model_copy import copy_of

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
        size = whole_number(value)
        if not name.strip() or not size:
            raise UsageError(
                f"fixed dimensions are written name=size, with commas between them; found '{part}'.",
                "For instance: batch=2,height=64",
            )
        fixed[name.strip()] = size
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
        available = ", ".join(sorted(symbols)) or "none"
        raise UsageError(f"the graph has no symbolic dimension '{unknown[0]}' (it has: {available}).")
    copy = copy_of(graph)
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


def symbols(graph: ir.Model) -> dict[str, tuple[str, ...]]:
    """Symbolic dimension -> the inputs that have it, in their order."""
    import onnx_ir as ir

    input_names: dict[str, list[str]] = {}
    for value in graph.graph.inputs:
        for d in dict.fromkeys(value.shape or ()):
            if isinstance(d, ir.SymbolicDim):
                input_names.setdefault(str(d.value), []).append(str(value.name))
    return {name: tuple(inputs) for name, inputs in input_names.items()}


def infer_shapes(graph: ir.Model, simplify: Callable[[ir.Model], ir.Model]) -> ir.Model:
    """Fills in, in place, the types and shapes that follow from the inputs'; weights are not read.

    Args:
        simplify: turns shape arithmetic that has become known into constants, from which more shapes follow.
    """
    from onnx_ir.passes.common import ShapeInferencePass

    infer = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    before = -1
    while (left := _unknown(graph)) != before:
        before = left
        with _inferable(graph):
            graph = infer(graph).model
        graph = simplify(graph)
    return graph


def _unknown(graph: ir.Model) -> int:
    return sum(
        value.shape is None or value.shape.is_dynamic() or value.type is None
        for node in graph.graph
        for value in node.outputs
    )


@contextmanager
def _inferable(graph: ir.Model) -> Iterator[None]:
    """The graph as onnx's inference takes it: without its weights, which it would read, and as below."""
    import onnx_ir as ir

    weights = [(v, v.const_value) for v in graph.graph.initializers.values()]
    weights = [(v, tensor) for v, tensor in weights if isinstance(tensor, (ir.LazyTensor, ir.ExternalTensor))]
    # It does not see through GroupNormalization; InstanceNormalization too has its first input's shape.
    norms = [node for node in graph.graph if node.op_type == "GroupNormalization" and node.domain == ""]
    for value, _ in weights:
        value.const_value = None
    for node in norms:
        node.op_type = "InstanceNormalization"
    try:
        yield
    finally:
        for value, tensor in weights:
            value.const_value = tensor
        for node in norms:
            node.op_type = "GroupNormalization"


def write_onnx(graph: ir.Model, model_file: Path, progress: Progress, task: str) -> tuple[str, ...]:
    """Writes `model_file` and, beside it, ``<model_file>_data`` with every tensor of more than one page.

    Each lazy initializer is read once, while it is written, and not kept.

    Returns:
        The names of the files that were written.

    Raises:
        LatentcError: a weight is not finite, the disk is full or the folder is not writable.
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
        with _reading():
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


def write_sharing(graph: ir.Model, first: ir.Model, model_file: Path, first_file: Path) -> None:
    """Writes `graph` as `model_file`, over the data file that `write_onnx` wrote of `first` to `first_file`.

    Tensors of `first` are found by identity: the two share them, as clones do. Larger ones that `graph` alone has
    are read once and put at the end of the data file. `graph` refers to the files afterwards.

    Raises:
        LatentcError: the disk is full or the folder is not writable.
    """
    import onnx_ir as ir

    written = ir.load(first_file).graph.initializers
    stored = {id(v.const_value): written[n].const_value for n, v in first.graph.initializers.items()}
    data = first_file.with_name(first_file.name + "_data")
    try:
        for name, value in graph.graph.initializers.items():
            tensor = value.const_value
            assert tensor is not None
            if id(tensor) not in stored and tensor.nbytes > PAGE:
                stored[id(tensor)] = _append(tensor, name, data)
            value.const_value = stored.get(id(tensor), tensor)
        with _reading():
            ir.save(graph, model_file)
    except OSError as error:
        raise LatentcError(
            f"cannot write {model_file}: {error}.", "Free some space or choose another folder."
        ) from error


@contextmanager
def _reading() -> Iterator[None]:
    """What a lazy weight raises while it is read, rather than onnx_ir's own error around it."""
    try:
        yield
    except (LatentcError, OSError):
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (LatentcError, OSError)):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def _append(tensor: ir.TensorProtocol, name: str, data: Path) -> ir.ExternalTensor:
    import onnx_ir as ir

    with data.open("ab") as file:
        file.write(b"\0" * (-file.tell() % PAGE))
        offset = file.tell()
        file.write(tensor.tobytes())
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(
        data.name, offset, tensor.nbytes, tensor.dtype, shape=shape, name=name, base_dir=data.parent
    )
