"""Weights stored in fp16 or bf16 behind a Cast; the graph still computes in fp32.

The form for runtimes that choose the activations' type on their device: they fold or fuse the Casts away
(OpenVINO keeps the constants compressed).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from compiler.passes.precision import element_type, lowered
from targets.graph.constants import is_small
from targets.graph.edit import add_initializer
from targets.graph.weights import Cast

_TABLE_ELEMENTS = 65536


@dataclass(frozen=True)
class WeightOptions:
    """Which initializers are stored in the lower precision.

    Attributes:
        precision: "fp16" or "bf16".
        min_elements: smaller ones stay in fp32: they cost nothing.
        min_rank: so do those of lower rank. Biases and the scales of norms are a thousandth of the bytes,
            and rounding them moves every channel.
        keep: initializers that stay in fp32 whatever their size (`precision.out_of_range` finds them).
    """

    precision: str = "fp16"
    min_elements: int = 1024
    min_rank: int = 2
    keep: frozenset[str] = frozenset()


class PrecisionWeightsPass(ir.passes.InPlacePass):
    """Casts large fp32 initializers down in their transform chains, and up again in the graph."""

    def __init__(self, options: WeightOptions = WeightOptions()) -> None:
        super().__init__()
        self.options = options
        self.dtype = element_type(options.precision)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        pending = {v for v in graph.initializers.values() if self._is_lowered(v)}
        modified = bool(pending)
        for node in graph:
            read = [v for v in node.inputs if v in pending]
            if any(
                a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
            ):
                read = [v for v in pending if any(use.node.graph is not graph for use in v.uses())] + read
            for value in read:
                if value is not None and value in pending:
                    pending.discard(value)
                    self._lower(graph, value, node)
        return ir.passes.PassResult(model, modified)

    def _is_lowered(self, value: ir.Value) -> bool:
        tensor = value.const_value
        return (
            tensor is not None
            and tensor.dtype == ir.DataType.FLOAT
            and tensor.size >= self.options.min_elements
            and len(tensor.shape) >= self.options.min_rank
            # Tables that were folded (frequencies, positions) are small, and phases need all their bits.
            and (not is_small(tensor) or tensor.size > _TABLE_ELEMENTS)
            and value.name not in self.options.keep
            and not value.is_graph_input()
            and not value.is_graph_output()
        )

    def _lower(self, graph: ir.Graph, value: ir.Value, before: ir.Node) -> None:
        tensor, name = value.const_value, value.name
        assert tensor is not None and name is not None
        del graph.initializers[name]
        value.name = f"{name}.fp32"
        stored = add_initializer(graph, lowered(tensor, self.dtype, lambda w: w.then(Cast(self.dtype))), name)
        assert stored.const_value is not None
        stored.const_value.name = stored.name
        up = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
        up.outputs[0].dtype, up.outputs[0].shape = ir.DataType.FLOAT, value.shape
        up.outputs[0].name = f"{name}.fp32"
        graph.insert_before(before, up)
        ir.convenience.replace_all_uses_with(value, up.outputs[0])
