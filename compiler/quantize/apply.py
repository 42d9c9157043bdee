"""The graph pass: initializers become quantized tensors behind what restores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from artifacts.manifest import WeightRecord
from artifacts.progress import Event, Progress, silent
from compiler.quantize.correction import correct
from compiler.quantize.decide import Decision, spare_small
from compiler.quantize.find import Layout, QuantizableWeight, find
from compiler.quantize.restore import Parts
from compiler.quantize.stream import ChosenValues, QuantizedWeight, Scratch, quantize
from targets.graph.edit import add_constant, add_initializer, insert
from targets.graph.weights import Stored, WeightRef

Choose = Callable[[str, Layout], "Decision | None"]
"""A weight's key and layout -> what becomes of it; None for nothing."""

LEFT_OUT = "it left this weight out"


class QuantizePass(ir.passes.InPlacePass):
    """Quantizes every weight that `choose` has a decision for; runs before the precision passes.

    Each weight is read and quantized when its turn comes and lies in `scratch` from then on, which must stay
    until the graph is written.

    Attributes:
        records: what was done, in the graph's order, after the pass has run.
        quantized_weights: the weights that were quantized, likewise.
    """

    def __init__(
        self,
        choose: Choose,
        scratch: Scratch,
        progress: Progress = silent,
        chosen_values: Mapping[str, Callable[[], ChosenValues]] | None = None,
    ) -> None:
        """Args:
        chosen_values: initializer -> reads the values that a method has chosen for it.
        """
        super().__init__()
        self.choose = choose
        self.scratch = scratch
        self.progress = progress
        self.chosen_values = chosen_values or {}
        self.records: tuple[WeightRecord, ...] = ()
        self.quantized_weights: tuple[QuantizedWeight, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        chosen = decisions(model, self.choose)
        firsts = _first_readers(model.graph, {initializer.value for initializer, _ in chosen})
        task = f"{model.graph.name}: quantizing"
        total, done = float(sum(initializer.weight.nbytes for initializer, _ in chosen)), 0.0
        records, quantized = [], []
        for initializer, decision in chosen:
            if decision.scheme is None:
                records.append(_spared(initializer, decision))
                continue
            read_values = self.chosen_values.get(str(initializer.value.name)) if decision.method else None
            if decision.method and read_values is None:
                decision = decision.without_method(LEFT_OUT)
            weight = quantize(
                initializer, decision, self.scratch, None if read_values is None else read_values()
            )
            _Rewrite(model.graph, weight, firsts[initializer.value]).run()
            records.append(_record(weight))
            quantized.append(weight)
            done += initializer.weight.nbytes
            self.progress(Event(task, done, total, "bytes"))
        self.records, self.quantized_weights = tuple(records), tuple(quantized)
        return ir.passes.PassResult(model, bool(chosen))


def decisions(model: ir.Model, choose: Choose) -> list[tuple[QuantizableWeight, Decision]]:
    """What becomes of each weight of the graph, the smallest spared."""
    wanted = [
        (initializer, decision)
        for initializer in find(model)
        if (decision := choose(initializer.key, initializer.layout)) is not None
    ]
    spared = spare_small([(initializer.weight.size, decision) for initializer, decision in wanted])
    return [(initializer, decision) for (initializer, _), decision in zip(wanted, spared, strict=True)]


def _spared(initializer: QuantizableWeight, decision: Decision) -> WeightRecord:
    return WeightRecord(
        key=initializer.key,
        scheme=decision.label,
        parameters=initializer.weight.size,
        bytes=decision.bytes(initializer.layout),
        error=None,
        note=decision.note,
    )


def _record(quantized: QuantizedWeight) -> WeightRecord:
    return WeightRecord(
        key=quantized.initializer.key,
        scheme=quantized.decision.label,
        parameters=quantized.initializer.weight.size,
        bytes=quantized.bytes,
        error=quantized.error,
        note=quantized.decision.note,
    )


def _first_readers(graph: ir.Graph, values: set[ir.Value]) -> dict[ir.Value, ir.Node]:
    firsts: dict[ir.Value, ir.Node] = {}
    for node in graph:
        for value in node.inputs:
            if value is not None and value in values:
                firsts.setdefault(value, node)
    return firsts


@dataclass
class _Rewrite:
    graph: ir.Graph
    quantized: QuantizedWeight
    before: ir.Node

    def run(self) -> None:
        initializer, scheme = self.quantized.initializer, self.quantized.decision.scheme
        assert scheme is not None
        old, name = initializer.value, str(initializer.value.name)
        readers = [(use.node, use.idx) for use in old.uses()]
        del self.graph.initializers[name]
        old.name = f"{name}.float"
        values, scale, zero = self._weight(self.quantized.values, name), self._scale(name), None
        if self.quantized.zero is not None:
            zero = self._weight(self.quantized.zero, f"{name}.zero_point")
        parts = Parts(name, initializer.layout, values, scale, zero)
        new = scheme.restore.add(self.graph, self.before, parts)
        new.name = f"{name}.restored"
        for node, index in readers:
            node.replace_input_with(index, new)
            if self.quantized.inputs is not None:
                self._scale_input(node, self.quantized.inputs, name)
        if self.quantized.left is not None:
            for node, _ in readers:
                correct(self.graph, self.quantized, name, node)

    def _scale_input(self, product: ir.Node, by: np.ndarray, name: str) -> None:
        """What was divided out of the weight, multiplied into the other factor of its product."""
        x = product.inputs[0]
        assert x is not None
        factor = add_constant(self.graph, by.astype(np.float32), f"{name}.inputs")
        kind = ir.DataType.FLOAT
        scaled = insert(product, "Mul", [x, factor], dtype=kind, shape=x.shape, before=True)
        product.replace_input_with(0, scaled.outputs[0])

    def _scale(self, name: str) -> ir.Value:
        scale = self._weight(self.quantized.scale, f"{name}.scale")
        if scale.dtype == ir.DataType.FLOAT:
            return scale
        # In front of the DequantizeLinear, where runtimes fold it: behind it they would not know the pattern.
        kind, to, shape = ir.DataType.FLOAT, {"to": int(ir.DataType.FLOAT)}, self.quantized.scale.shape
        return insert(self.before, "Cast", [scale], to, dtype=kind, shape=shape, before=True).outputs[0]

    def _weight(self, stored: Stored, name: str) -> ir.Value:
        value = add_initializer(self.graph, WeightRef(stored, name=name), name)
        assert value.const_value is not None
        value.const_value.name = value.name
        return value
