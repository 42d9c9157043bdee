"""Which nodes of a graph DirectML's provider runs, found without the provider: no node may fall back to the CPU.

ONNX Runtime gives a node to a provider when the provider's registry has a kernel for it (`kernels`) and the
provider's own query does not object (`QUERIES`). Everything else silently goes to the CPU, with copies both ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from targets.directml.kernels import Kernel, table

if TYPE_CHECKING:
    import onnx_ir as ir

MODULE = "latentc.module"
"""Where the compiler leaves the path of a node's module (`compiler.export.scopes`)."""

# ONNX Runtime's own name of an element type where it is not ONNX's in lower case.
_ORT_TYPES = {"FLOAT": "float", "DOUBLE": "double"}


@dataclass(frozen=True)
class Fallback:
    """A node that the provider would leave to the CPU.

    Attributes:
        module: path of the module it came from, "" for the component itself.
    """

    node: str
    op: str
    reason: str
    module: str

    def __str__(self) -> str:
        where = f" of {self.module}" if self.module else ""
        return f"{self.op} '{self.node}'{where}: {self.reason}"


@dataclass(frozen=True)
class Coverage:
    """What a check found.

    Attributes:
        nodes: how many of each operator there are.
    """

    nodes: Mapping[str, int]
    fallbacks: tuple[Fallback, ...]

    @property
    def total(self) -> int:
        return sum(self.nodes.values())

    def __str__(self) -> str:
        share = f"{self.total - len(self.fallbacks)} of {self.total} nodes"
        return f"{share} have a kernel in DirectML (ONNX Runtime's table, {table().commit[:10]})"


def coverage(model: ir.Model) -> Coverage:
    """Checks every node of `model`, those of its subgraphs included. Types and shapes must be filled in."""
    imports = {("" if d == "ai.onnx" else d): v for d, v in model.graph.opset_imports.items()}
    nodes: Counter[str] = Counter()
    fallbacks: list[Fallback] = []
    for value in model.graph.inputs:
        if (reason := _symbolic(value)) is not None:
            fallbacks.append(Fallback(value.name or "", "input", reason, ""))
    for node in model.graph.all_nodes():
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) == ("", "Constant"):
            continue  # an initializer, once the file is loaded
        op = f"{domain}.{node.op_type}".lstrip(".")
        nodes[op] += 1
        reason = _unsupported(node, domain, imports)
        if reason is not None:
            module = node.metadata_props.get(MODULE, "")
            fallbacks.append(Fallback(node.name or _made(node), op, reason, module))
    return Coverage(dict(nodes), tuple(fallbacks))


def require_covered(model: ir.Model, shown: int = 5) -> Coverage:
    """What `coverage` found.

    Raises:
        LatentcError: a node would fall back to the CPU.
    """
    report = coverage(model)
    if report.fallbacks:
        listed = "; ".join(map(str, report.fallbacks[:shown]))
        more = f"; and {len(report.fallbacks) - shown} more" if len(report.fallbacks) > shown else ""
        raise LatentcError(
            f"{len(report.fallbacks)} of {report.total} nodes of '{model.graph.name}' would run on the CPU, "
            f"not in DirectML: {listed}{more}.",
            "Use --target onnxruntime, whose artifacts run such nodes on the CPU.",
        )
    return report


def _made(node: ir.Node) -> str:
    """What stands for the name of a node that has none: its first output's."""
    return next((v.name for v in node.outputs if v.name), "")


def _unsupported(node: ir.Node, domain: str, imports: Mapping[str, int]) -> str | None:
    """Why the registry has no kernel for a node, or None where it has one."""
    opset = imports.get(domain, 1)
    kernels = table().kernels.get((domain, node.op_type))
    if kernels is None:
        return "the provider has no such operator"
    signature = _signature(domain, node.op_type, opset)
    version = signature.version if signature is not None else 1
    matching = [kernel for kernel in kernels if kernel.matches(version)]
    if not matching:
        versions = ", ".join(str(kernel.since) for kernel in kernels)
        return f"opset {opset} means version {version} of it, and the provider has {versions}"
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name != "" and (reason := _symbolic(value)) is not None:
            return reason
    wrong = [_wrong_type(node, kernel, signature) for kernel in matching]
    if all(wrong):
        return wrong[0]
    query = QUERIES.get((domain, node.op_type))
    return None if query is None else query(node)


def _symbolic(value: ir.Value) -> str | None:
    if value.shape is None:
        return f"the shape of '{value.name}' is not known"
    unknown = [str(d) for d in value.shape if not isinstance(d, int)]
    return f"'{value.name}' has the symbolic dimension '{unknown[0]}'" if unknown else None


# --- types -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Signature:
    """An operator's schema: since when it is so, and the constraint of each parameter."""

    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@cache
def _signature(domain: str, op: str, opset: int) -> _Signature | None:
    if domain != "":
        return None
    import onnx

    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None
    inputs = tuple(p.type_str for p in schema.inputs)
    return _Signature(schema.since_version, inputs, tuple(p.type_str for p in schema.outputs))


def _wrong_type(node: ir.Node, kernel: Kernel, signature: _Signature | None) -> str | None:
    inputs = kernel.inputs or (signature.inputs if signature is not None else ())
    outputs = kernel.outputs or (signature.outputs if signature is not None else ())
    for value, constraint in (*_paired(node.inputs, inputs), *_paired(node.outputs, outputs)):
        allowed = kernel.types.get(constraint)
        if allowed is None:
            continue
        if value.dtype is None:
            return f"the element type of '{value.name}' is not known"
        if (dtype := _ORT_TYPES.get(value.dtype.name, value.dtype.name.lower())) not in allowed:
            return f"'{value.name}' is {dtype}, and {constraint} takes {', '.join(sorted(allowed))}"
    return None


def _paired(values: Iterable[ir.Value | None], names: tuple[str, ...]) -> Iterator[tuple[ir.Value, str]]:
    """Each value that is there with its constraint; the last parameter may be a list."""
    for i, value in enumerate(values):
        if value is not None and value.name != "" and names:
            yield value, names[min(i, len(names) - 1)]


# --- the provider's own queries --------------------------------------------------------------------


def _attribute(node: ir.Node, name: str, default: object) -> object:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _matmul_nbits(node: ir.Node) -> str | None:
    if len(node.inputs) != 4:
        return f"it has {len(node.inputs)} inputs, and the kernel takes exactly 4"
    if (bits := _attribute(node, "bits", 4)) not in (4, 8):
        return f"{bits} bits, and the kernel takes 4 and 8"
    # It takes A's rank for the weights', and the last axis of the scales for the number of blocks.
    if (_rank(node.inputs[0]) or 0) < 2 or _rank(node.inputs[2]) != 2:
        return "the kernel takes an input of two axes or more, and scales of two"
    return None


def _group_norm(node: ir.Node) -> str | None:
    if len(node.inputs) != 3 or _rank(node.inputs[0]) != 4:
        return "the kernel takes three inputs, the first of four axes"
    return None if _attribute(node, "channels_last", 1) == 1 else "the kernel takes channels last"


def _attention(node: ir.Node) -> str | None:
    query, *others = node.inputs
    if _rank(query) not in (3, 5) or any(_rank(v) not in (None, 3, 4, 5) for v in others[:2]):
        return "the kernel takes queries, keys and values of three axes"
    bias = node.inputs[5] if len(node.inputs) > 5 else None
    if bias is None or bias.shape is None or query is None or query.shape is None:
        return None
    wanted = (query.shape[0], _attribute(node, "num_heads", 0), query.shape[1])
    if len(bias.shape) != 4 or tuple(bias.shape[:3]) != wanted:
        return "the kernel takes an attention bias of its full shape only"
    return None


def _single_output(node: ir.Node) -> str | None:
    extra = [v for v in node.outputs[1:] if v.name != ""]
    return "the kernel has one output" if extra else None


def _no_statistics(node: ir.Node) -> str | None:
    return "the kernel does not return statistics" if any(v.name != "" for v in node.outputs[1:3]) else None


def _resize(node: ir.Node) -> str | None:
    if _attribute(node, "mode", "nearest") == "cubic":
        return "the kernel has no cubic interpolation"
    if _attribute(node, "exclude_outside", 0) != 0:
        return "the kernel does not exclude what is outside"
    return None


QUERIES: Mapping[tuple[str, str], Callable[[ir.Node], str | None]] = {
    ("", "LayerNormalization"): _single_output,
    ("", "Resize"): _resize,
    ("com.microsoft", "GroupNorm"): _group_norm,
    ("com.microsoft", "MatMulNBits"): _matmul_nbits,
    ("com.microsoft", "MultiHeadAttention"): _attention,
    ("com.microsoft", "SkipLayerNormalization"): _no_statistics,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _no_statistics,
}
"""What a kernel refuses beyond its types, where its source says so (DmlOperator*.cpp of the provider)."""
