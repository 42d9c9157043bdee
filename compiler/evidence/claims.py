"""What a manifest says of a graph, held to what its files store: whoever writes an artifact writes its manifest, too.

A tolerance is never the manifest's. It follows from our own tables, by the schemes and the type that weights are stored
in; a manifest that names those of a larger tolerance than its files are in is not believed.
"""

from __future__ import annotations

from pathlib import Path

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import GraphRecord, WeightRecord
from compiler.quantize import scheme_table
from compiler.quantize.decide import NONE
from runtimes.compute import WIDE
from runtimes.sessions.onnx_format import format_of
from runtimes.sessions.session_contract import Contents, SessionFactory
from targets.target_contract import Target

_DTYPES = {"fp16": "float16", "bf16": "bfloat16"}


def contents(target: Target, factory: SessionFactory, graph: GraphRecord, root: Path) -> Contents | None:
    """What a graph's files store; None for files that nothing here looks into.

    Files that hold no graph are made of one that lies beside them (`targets.target_contract.Rebuild`).
    """
    model_file = root / graph.model_file
    form = format_of(factory, model_file)
    if form is None and target.rebuild is not None:
        model_file = model_file.with_name(target.rebuild.graph)
        form = format_of(factory, model_file) if model_file.is_file() else None
    return None if form is None else form.contents(model_file)


def stored_in(graph: GraphRecord, stored: Contents | None) -> str:
    """The type whose tolerance the graph's weights have: the manifest's, unless no weight is stored in it; then fp32.

    Args:
        stored: None where that is not known.
    """
    dtype = _DTYPES.get(graph.precision)
    return (
        WIDE
        if dtype is not None and stored is not None and dtype not in stored.constants
        else graph.precision
    )


def require_schemes(graph: GraphRecord, stored: Contents | None) -> None:
    """Holds the schemes that the manifest names to what the files store.

    Raises:
        LatentcError: it is no scheme of ours, or the files hold no weights of as few bits, or round no activations.
    """
    largest: dict[str, WeightRecord] = {}
    for weight in graph.weights:
        name = weight.scheme.partition(":")[0]
        if name != NONE and (name not in largest or largest[name].parameters < weight.parameters):
            largest[name] = weight
    for name, weight in largest.items():
        try:
            scheme = scheme_table.get(name)
        except UsageError as error:
            raise _disbelieved(graph, weight, f"{error.message.removesuffix('.')}") from error
        if stored is None:
            raise _disbelieved(graph, weight, "nothing here looks into its files")
        options = scheme.default()
        bits = scheme.format(options).element.bitwidth
        stored_numbers = sum(count for dtype, count in stored.constants.items() if _bits(dtype) == bits)
        if stored_numbers < weight.parameters:
            raise _disbelieved(graph, weight, f"its files hold {stored_numbers:,} numbers of {bits} bits")
        if scheme.activations(options) is not None and not stored.quantizes:
            raise _disbelieved(graph, weight, "its files round no activations")


def _bits(dtype: str) -> int:
    digits = "".join(character for character in dtype if character.isdigit())
    return int(digits) if digits else 0


def _disbelieved(graph: GraphRecord, weight: WeightRecord, why: str) -> LatentcError:
    return LatentcError(
        f"'{graph.folder}' is not what its manifest says: '{weight.key}' of {weight.parameters:,} parameters in "
        f"{weight.scheme}, and {why}.",
        "Compile the model again.",
    )
