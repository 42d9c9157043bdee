"""What no output needs: nodes, initializers, functions and opset imports."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


class DeadPass(ir.passes.InPlacePass):
    """`onnx_ir`'s removal passes in one. The graph's inputs and outputs stay, used or not."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for step in (
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),
            common.RemoveUnusedOpsetsPass(),
        ):
            modified |= step(model).modified
        return ir.passes.PassResult(model, modified)
