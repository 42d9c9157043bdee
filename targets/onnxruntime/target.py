"""ONNX Runtime: ``model.onnx`` and ``model.onnx_data``, as `optimum.onnxruntime` lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from targets.graph.nf4_nodes import as_matmul_bnb4
from targets.graph.onnx_files import fix_dims, parse_fixed, write_onnx
from targets.other_loaders import FAMILIES, OtherLoader
from targets.rewrites import INSTANCE_NORM, PAD_HEADS, SPLIT_LINEAR, SUB_PIXEL_CONV
from targets.target_contract import Availability, Context, Lowered, Rewrite
from targets.versions import installed, versions
from targets.weight_typed import WEIGHT_TYPED

if TYPE_CHECKING:
    import onnx_ir as ir

MODEL = "model.onnx"


MULTI_HEAD_ATTENTION = Rewrite(
    "multi-head-attention",
    "targets.onnxruntime.multi_head_attention:MultiHeadAttentionPass",
    "attention without a mask becomes ONNX Runtime's MultiHeadAttention",
    why="its kernel never holds all scores, and needs no transposes; other runtimes fuse attention themselves",
)


@dataclass(frozen=True)
class OnnxRuntimeOptions:
    """Options of the target "onnxruntime".

    Attributes:
        fix: symbolic dimensions to make fixed, as ``name=size`` with commas between them.
    """

    fix: str = ""


class OnnxRuntime:
    """One ONNX file and its external data; the graph is not changed but for `OnnxRuntimeOptions.fix` and nf4."""

    name = "onnxruntime"
    summary = "ONNX Runtime, on the CPU and on every execution provider that is installed"
    requirements = replace(
        WEIGHT_TYPED,
        rewrites=(SPLIT_LINEAR, SUB_PIXEL_CONV, MULTI_HEAD_ATTENTION, INSTANCE_NORM, PAD_HEADS.off()),
        approximations=frozenset({"pooled-keys"}),
    )
    options: type[OnnxRuntimeOptions] = OnnxRuntimeOptions
    rebuild = None
    companions = None
    loaders = (OtherLoader("optimum-onnx", FAMILIES),)

    def available(self) -> Availability:
        """onnx and onnx_ir write the files; onnxruntime is needed to run and check them."""
        return installed("onnxruntime", "onnx", "onnx_ir")

    def lower(self, graph: ir.Model, options: OnnxRuntimeOptions, out_dir: Path, context: Context) -> Lowered:
        """Streams `graph` into ``out_dir/model.onnx`` and ``model.onnx_data``.

        Raises:
            UsageError: `options.fix` names a dimension that the graph does not have.
            LatentcError: the files cannot be written.
        """
        fixed = as_matmul_bnb4(fix_dims(graph, parse_fixed(options.fix)))
        files = write_onnx(
            fixed, out_dir / MODEL, context.progress, f"{graph.graph.name or out_dir.name}: writing weights"
        )
        return Lowered(MODEL, files)

    def toolchain(self) -> Mapping[str, str]:
        """Versions of onnx, onnx-ir and onnxruntime."""
        return versions("onnx", "onnx-ir", "onnxruntime")


TARGET = OnnxRuntime()
