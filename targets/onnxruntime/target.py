"""ONNX Runtime: ``model.onnx`` and ``model.onnx_data``, as `optimum.onnxruntime` lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from targets.graph.nf4_nodes import as_matmul_bnb4
from targets.graph.onnx_files import fix_dims, parse_fixed, write_onnx
from targets.rewrites import INSTANCE_NORM, PAD_HEADS, SPLIT_LINEAR, SUB_PIXEL_CONV
from targets.target_contract import Availability, Context, Lowered, Requirements, Rewrite
from targets.versions import installed, versions

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
    # Opset 21 is the first with blockwise int4 DequantizeLinear; 23 is the last whose Attention and
    # normalization operators all have CPU kernels in the oldest onnxruntime that we allow.
    requirements = Requirements(
        opset=(17, 23),
        precisions=frozenset({"fp32", "fp16", "bf16"}),
        typed="weights",
        weight_formats=frozenset({"int8", "uint8", "blocked int4", "blocked uint4", "nf4"}),
        passes=(),
        rewrites=(SPLIT_LINEAR, SUB_PIXEL_CONV, MULTI_HEAD_ATTENTION, INSTANCE_NORM, PAD_HEADS.off()),
        approximations=frozenset({"pooled-keys"}),
        dynamic_shapes=True,
        activations="uint8",
    )
    options: type[OnnxRuntimeOptions] = OnnxRuntimeOptions
    rebuild = None
    companions = None

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
