"""An exported program as an ONNX graph in the standard domain."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from artifacts.errors import LatentcError
from compiler.capture.infer import Method
from compiler.export.complex_pairs import without_complex
from compiler.export.known_operators import slice_chunks, use_known_operators
from runtimes.quiet import quiet

OPSET = 21


def translate(program: ExportedProgram, method: Method) -> ir.Model:
    """The graph with the method's input and output names; its initializers hold no data yet.

    Raises:
        LatentcError: an operator has no ONNX form.
    """
    _drop_assertions(program)
    use_known_operators(program.graph)
    _name_results(program)
    program = without_complex(program)
    # The exporter warns of torchvision's operators and of deprecated internals.
    with quiet("torch.onnx"), _decomposing_only_if_needed(), _promoting_from_known_types():
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=[spec.name for spec in method.inputs],
                output_names=[spec.name for spec in method.outputs],
                custom_translation_table=_translations(),
            )
        except torch.onnx.OnnxExporterError as error:
            lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
            raise LatentcError(
                f"'{method.component}.{method.method}' has no ONNX form: {lines[-1] if lines else error}"
            ) from error
    assert exported is not None
    return exported.model


def _drop_assertions(program: ExportedProgram) -> None:
    """Removes run-time assertions about dtypes and sizes, in place: ONNX has none."""
    graph = program.graph_module.graph
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and "_assert" in str(node.target):
            graph.erase_node(node)


def _name_results(program: ExportedProgram) -> None:
    """Has the signature name the nodes that are results now: another may have taken one's place."""
    results = next(node for node in program.graph.nodes if node.op == "output").args[0]
    for spec, node in zip(program.graph_signature.output_specs, results, strict=True):
        if isinstance(node, torch.fx.Node):
            spec.arg.name = node.name


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ATen operators that torch.export leaves in a graph and that are one ONNX operator each.

    torch.onnx would decompose them by tracing the whole program again, twice, which takes longer than all else.
    """
    from onnxscript import opset21 as op

    aten: Any = torch.ops.aten

    def cast(self: Any, dtype: int = -1, *_: Any, **__: Any) -> Any:
        return op.Identity(self) if dtype == -1 else op.Cast(self, to=dtype)

    def same(self: Any, *_: Any, **__: Any) -> Any:
        return op.Identity(self)

    def to_other(self: Any, other: Any, *_: Any, **__: Any) -> Any:
        return op.CastLike(self, other)

    def to_device(self: Any, device: Any = None, dtype: int = -1, *_: Any, **__: Any) -> Any:
        return op.Identity(self) if dtype == -1 else op.Cast(self, to=dtype)

    def rms_norm(self: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
        # RMSNormalization is an operator from opset 23 on.
        epsilon = torch.finfo(torch.float32).eps if eps is None else eps
        axes = op.Constant(value_ints=[-1 - axis for axis in range(len(normalized_shape))])
        mean = op.ReduceMean(op.Mul(self, self), axes)
        scale = op.Reciprocal(op.Sqrt(op.Add(mean, op.CastLike(op.Constant(value_float=epsilon), self))))
        normal = op.Mul(self, scale)
        return normal if weight is None else op.Mul(normal, weight)

    def repeat_interleave(self: Any, repeats: Any, dim: int | None = None, output_size: Any = None) -> Any:
        # torch.onnx's own repeats another axis where the count is computed: a video's frames.
        flat = op.Reshape(self, op.Constant(value_ints=[-1])) if dim is None else self
        rank = 1 if dim is None else len(self.shape)
        axis = (dim or 0) % rank
        counts = [op.Constant(value_ints=[1] * (axis + 1)), op.Reshape(repeats, op.Constant(value_ints=[-1]))]
        if rank > axis + 1:
            counts.append(op.Constant(value_ints=[1] * (rank - axis - 1)))
        wide = op.Expand(op.Unsqueeze(flat, op.Constant(value_ints=[axis + 1])), op.Concat(*counts, axis=0))
        before, behind = op.Shape(flat, start=0, end=axis), op.Shape(flat, start=axis + 1)
        return op.Reshape(wide, op.Concat(before, op.Constant(value_ints=[-1]), behind, axis=0))

    return {
        aten.rms_norm.default: rms_norm,
        aten.repeat_interleave.self_int: repeat_interleave,
        aten.to.dtype: cast,
        aten.to.dtype_layout: cast,
        aten.to.device: to_device,
        aten.to.other: to_other,
        aten.contiguous.default: same,
        aten.min.other: lambda self, other: op.Min(self, other),
        aten.max.other: lambda self, other: op.Max(self, other),
    }


def _decomposing_only_if_needed() -> AbstractContextManager[Any]:
    """While it is open, torch.onnx decomposes only programs that hold an operator it has no translation for.

    The decomposition traces the program anew under symbolic shapes: two thirds of the time of an export.
    It is a private function of torch.onnx; where it is not there, exports are slower and no different.
    """
    from torch.onnx._internal.exporter import _decomp, _fx_passes

    original = getattr(_fx_passes, "decompose_with_registry", None)
    if original is None:
        return nullcontext()

    def decompose(program: ExportedProgram, registry: Any) -> ExportedProgram:
        implemented = set(_decomp.get_onnx_implemented_overloads(registry))
        for node in program.graph.nodes:
            target = node.target
            if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
                continue
            if target.name() == "aten::sym_constrain_range_for_size":
                continue
            if target not in implemented or target._schema.is_mutable:
                slice_chunks(program.graph)
                program.graph_module.recompile()
                return original(program, registry)  # type: ignore[no-any-return]
        return program

    return patch.object(_fx_passes, "decompose_with_registry", decompose)


def _promoting_from_known_types() -> AbstractContextManager[Any]:
    """While it is open, torch.onnx's type promotion reads the types that a program already carries.

    It runs every operator of the program anew to learn them: another third of the time of an export. Operators
    whose arguments it changes still run. Private, and done without where it is not there.
    """
    from torch.onnx._internal.fx.passes import type_promotion

    interpreter = getattr(type_promotion, "_TypePromotionInterpreter", None)
    if interpreter is None or not hasattr(type_promotion, "get_type_promotion_rule"):
        return nullcontext()
    original = interpreter.run_node

    def run_node(self: Any, node: torch.fx.Node) -> Any:
        if node.op != "call_function" or "val" not in node.meta:
            return original(self, node)
        rule = type_promotion.get_type_promotion_rule(node, self.type_promotion_table)
        if rule is not None:
            before = (node.args, node.kwargs)
            with self._set_current_node(node):
                self._maybe_promote_node(node, rule)
            if (node.args, node.kwargs) != before:
                return torch.fx.Interpreter.run_node(self, node)
        return node.meta["val"]

    return patch.object(interpreter, "run_node", run_node)
