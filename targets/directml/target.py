"""DirectML: one fixed graph for each size, and one of any size for the CPU, all over the same weights.

The provider compiles a graph for fixed dimensions only, and leaves what it has no kernel for to the CPU. So each
combination of sizes becomes an ONNX file of its own, without weights, in ONNX Runtime's fused operators; every
node of it is checked against the provider's kernels (`kernel_coverage`). ``model.onnx`` is the same graph as it was:
symbolic dimensions, standard operators. It is what a machine without DirectML runs and checks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from artifacts.manifest import Built, DimRange
from artifacts.progress import Event
from targets.directml.file_format import FORMAT
from targets.directml.fuse import fuse
from targets.directml.kernel_coverage import Coverage, require_covered
from targets.directml.kernels import table
from targets.graph.model_copy import copy_of
from targets.graph.onnx_files import fix_dims, infer_shapes, parse_fixed, symbols, write_onnx, write_sharing
from targets.rewrites import SPLIT_LINEAR, SUB_PIXEL_CONV
from targets.target_contract import Availability, Context, Lowered, Rebuild, Requirements, unchanged
from targets.versions import installed, versions

if TYPE_CHECKING:
    import onnx_ir as ir

TWIN = "model.onnx"

# Of a declared range with more values than this, its two ends are compiled.
FEW = 4
MOST_GRAPHS = 16


@dataclass(frozen=True)
class DirectMlOptions:
    """Options of the target "directml".

    Attributes:
        fix: symbolic dimensions to make fixed, as ``name=size`` with commas between them.
    """

    fix: str = ""


class DirectMl:
    """ONNX files that DirectML's provider runs whole, and one that the CPU runs."""

    name = "directml"
    summary = (
        "DirectML through ONNX Runtime, on any GPU of a Windows PC; can be built anywhere, "
        "and runs where this did: pip install onnxruntime-directml"
    )
    # Of opset 21 only DequantizeLinear is needed, for int4; of 22 on, the provider lacks Conv and others.
    requirements = Requirements(
        opset=(17, 21),
        precisions=frozenset({"fp32", "fp16"}),
        typed="strong",
        weight_formats=frozenset({"int8", "uint8", "blocked int4", "blocked uint4"}),
        passes=("without-fp64",),
        rewrites=(SPLIT_LINEAR.off(), SUB_PIXEL_CONV.off()),
        dynamic_shapes=True,  # `lower` writes a graph of each combination of sizes.
    )
    options: type[DirectMlOptions] = DirectMlOptions
    rebuild = Rebuild(TWIN, frozenset({"fix"}), FORMAT)
    companions = None
    loaders = ()

    def available(self) -> Availability:
        """onnx and onnx_ir write the files; onnxruntime's CPU provider is needed to check them."""
        return installed("onnxruntime", "onnx", "onnx_ir")

    def lower(self, graph: ir.Model, options: DirectMlOptions, out_dir: Path, context: Context) -> Lowered:
        """Streams `graph` into ``out_dir/model.onnx`` and ``model.onnx_data``; fixed graphs lie beside them.

        Raises:
            UsageError: `options.fix` names a dimension that the graph does not have.
            LatentcError: a dimension has no declared size, there are too many sizes, a node would fall back to the
                CPU, or the files cannot be written.
        """
        named = graph.graph.name or out_dir.name
        plain = fix_dims(graph, parse_fixed(options.fix))
        context.progress(Event(f"{named}: checking against DirectML's kernels", 0, None))
        points = sizes(plain, context.dims)
        fixed = {_file(point): (point, _covered(at_size(plain, point, context.simplify))) for point in points}
        context.progress(Event(f"{named}: checking against DirectML's kernels", 1, 1))
        files = write_onnx(plain, out_dir / TWIN, context.progress, f"{named}: writing weights")
        for name, (_, (model, _)) in fixed.items():
            write_sharing(model, plain, out_dir / name, out_dir / TWIN)
        built: Built = {
            "graphs": [{"file": name, "dims": dict(point)} for name, (point, _) in fixed.items()],
            "coverage": str(max((c for _, (_, c) in fixed.values()), key=lambda c: c.total)),
        }
        return Lowered(TWIN, (*files, *fixed), built)

    def toolchain(self) -> Mapping[str, str]:
        """Versions of onnx, onnx-ir and onnxruntime, and of the table of kernels."""
        return {**versions("onnx", "onnx-ir", "onnxruntime"), "directml-kernels": table().commit[:12]}


def sizes(graph: ir.Model, dims: Mapping[str, DimRange]) -> tuple[Mapping[str, int], ...]:
    """Every combination of sizes that a graph's symbolic dimensions get.

    A range of up to `FEW` values stands for each of them, a longer one for its ends.

    Raises:
        LatentcError: a dimension has no declared range, or there are more than `MOST_GRAPHS` combinations.
    """
    spans: dict[str, tuple[int, ...]] = {}
    for name, inputs in symbols(graph).items():
        if name not in dims:
            raise LatentcError(
                f"target 'directml' takes fixed shapes only; the dimension '{name}' of "
                f"{', '.join(inputs)} has no declared size.",
                f"Choose one: --option fix={name}=SIZE",
            )
        low, high = dims[name].min, dims[name].max
        spans[name] = tuple(range(low, high + 1)) if high - low < FEW else (low, high)
    points = [dict(zip(spans, values, strict=True)) for values in itertools.product(*spans.values())]
    if len(points) > MOST_GRAPHS:
        raise LatentcError(
            f"target 'directml' compiles one graph for each combination of sizes: {len(points)} of "
            f"{', '.join(spans)}; at most {MOST_GRAPHS} are allowed.",
            "Declare fewer: --size WIDTHxHEIGHT --batch N",
        )
    return tuple(points)


def at_size(
    graph: ir.Model, point: Mapping[str, int], simplify: Callable[[ir.Model], ir.Model] = unchanged
) -> ir.Model:
    """A copy of `graph`, weights shared, for these sizes of its symbolic dimensions, in DirectML's operators."""
    model = fix_dims(graph, point)
    model = copy_of(graph) if model is graph else model
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and value.shape.is_dynamic():
                value.shape = None  # of some expression of what is fixed now
    model = infer_shapes(model, simplify)
    fuse(model)
    _lower_opset(model)
    return model


def _covered(model: ir.Model) -> tuple[ir.Model, Coverage]:
    return model, require_covered(model)


def _file(point: Mapping[str, int]) -> str:
    return "-".join(["directml", *(f"{name}{size}" for name, size in point.items())]) + ".onnx"


def _lower_opset(model: ir.Model) -> None:
    """Imports opset 20, in place, but where the graph holds what 21 brought: weights of four bits, or in blocks.

    Between the two only element types were added, and GroupNormalization changed, which is gone by now.
    """
    if model.graph.opset_imports.get("", 0) > 20 and not any(
        _of_21(node) for node in model.graph.all_nodes()
    ):
        model.graph.opset_imports[""] = 20


def _of_21(node: ir.Node) -> bool:
    import onnx_ir as ir

    four_bits = (ir.DataType.INT4, ir.DataType.UINT4)
    kinds = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
    return "block_size" in node.attributes or not kinds.isdisjoint(four_bits)


TARGET = DirectMl()
