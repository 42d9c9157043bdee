"""Model-local functions, put in the place of their calls: targets and later passes see one flat graph."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


class InlinePass(ir.passes.InPlacePass):
    """`onnx_ir`'s inliner; names of inlined values are made unique. Ensures that no function is left."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not model.functions:
            return ir.passes.PassResult(model, False)
        result = common.InlinePass()(model)
        return ir.passes.PassResult(result.model, True)

    def ensures(self, model: ir.Model) -> None:
        if model.functions:
            raise ir.passes.PostconditionError(f"functions left after inlining: {sorted(model.functions)}")
