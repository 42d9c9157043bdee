"""Group norms of single channels as norms of differences to the first pixel: exact for flat pictures.

The mean of equal numbers, as runtimes add them up, is not quite that number. What remains is divided by the root of
epsilon, so that each norm makes rounding errors a thousand times larger; an all-masked picture is one such flat input.
A group of several channels varies from channel to channel and needs no help.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from targets.graph.dims import dims
from targets.graph.edit import add_constant, insert


class CentredNormPass(ir.passes.InPlacePass):
    """``GroupNormalization(x)`` with one channel a group becomes ``GroupNormalization(x - x[:, :, :1, :1])``.

    The two are equal: a norm does not see what all of its group has in common.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        norms = [n for n in model.graph if n.op_type == "GroupNormalization" and n.domain == ""]
        centred = [node for node in norms if _centred(node, model.graph)]
        return ir.passes.PassResult(model, bool(centred))


def _centred(norm: ir.Node, graph: ir.Graph) -> bool:
    x = norm.inputs[0]
    assert x is not None
    shape = dims(x)
    if shape is None or shape[1] != norm.attributes["num_groups"].as_int():
        return False
    axes = np.arange(2, len(shape), dtype=np.int64)
    bounds = [
        add_constant(graph, values, f"{norm.outputs[0].name}.{label}")
        for label, values in (("first", np.zeros_like(axes)), ("end", np.ones_like(axes)), ("axes", axes))
    ]
    pixel_shape = (shape[0], shape[1], *(1 for _ in axes))
    pixel = insert(norm, "Slice", [x, *bounds], dtype=x.dtype, shape=pixel_shape, before=True)
    centred = insert(norm, "Sub", [x, pixel.outputs[0]], dtype=x.dtype, shape=x.shape, before=True)
    norm.replace_input_with(0, centred.outputs[0])
    return True
