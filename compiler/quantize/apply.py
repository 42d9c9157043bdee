"""The graph pass: initializers become quantized tensors behind what restores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from artifacts.manifest import WeightRecord
from artifacts.progress import Event, Progress, silent
from compiler.quantize.correction import correct
from compiler.quantize.decide import Decision, spare_small, stored_bytes
from compiler.quantize.find import Found, Layout, find
from compiler.quantize.stream import Given, QuantizedWeight, Scratch, quantize
from targets.graph import nf4
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
    """

    def __init__(
        self,
        choose: Choose,
        scratch: Scratch,
        progress: Progress = silent,
        given: Mapping[str, Callable[[], Given]] | None = None,
    ) -> None:
        """Args:
        given: initializer -> reads the values that a method has chosen for it.
        """
        super().__init__()
        self.choose = choose
        self.scratch = scratch
        self.progress = progress
        self.given = given or {}
        self.records: tuple[WeightRecord, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        chosen = decisions(model, self.choose)
        firsts = _first_readers(model.graph, {found.value for found, _ in chosen})
        task = f"{model.graph.name}: quantizing"
        total, done = float(sum(found.weight.nbytes for found, _ in chosen)), 0.0
        records = []
        for found, decision in chosen:
            if decision.scheme == "none":
                records.append(_spared(found, decision))
                continue
            given = self.given.get(str(found.value.name)) if decision.method else None
            if decision.method and given is None:
                decision = decision.without_method(LEFT_OUT)
            made = quantize(found, decision, self.scratch, None if given is None else given())
            _Rewrite(model.graph, made, firsts[found.value]).run()
            records.append(_record(made))
            done += found.weight.nbytes
            self.progress(Event(task, done, total, "bytes"))
        self.records = tuple(records)
        return ir.passes.PassResult(model, bool(chosen))


def decisions(model: ir.Model, choose: Choose) -> list[tuple[Found, Decision]]:
    """What becomes of each weight of the graph, the smallest spared."""
    wanted = [(found, made) for found in find(model) if (made := choose(found.key, found.layout)) is not None]
    spared = spare_small([(found.weight.size, decision) for found, decision in wanted])
    return [(found, decision) for (found, _), decision in zip(wanted, spared, strict=True)]


def _spared(found: Found, decision: Decision) -> WeightRecord:
    return WeightRecord(
        key=found.key,
        scheme=decision.scheme,
        parameters=found.weight.size,
        bytes=stored_bytes(decision, found.layout),
        error=0.0,
        note=decision.note,
    )


def _record(made: QuantizedWeight) -> WeightRecord:
    return WeightRecord(
        key=made.found.key,
        scheme=made.decision.label,
        parameters=made.found.weight.size,
        bytes=made.bytes,
        error=made.error,
        note=made.decision.note,
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
    made: QuantizedWeight
    before: ir.Node

    def run(self) -> None:
        found, decision = self.made.found, self.made.decision
        old, name = found.value, str(found.value.name)
        readers = [(use.node, use.idx) for use in old.uses()]
        del self.graph.initializers[name]
        old.name = f"{name}.float"
        values = self._weight(self.made.values, name)
        scale = self._scale(name)
        if decision.scheme == "nf4":
            block = found.layout.inner // self.made.scale.shape[1]
            new = nf4.add(self.graph, self.before, values, scale, block)
            if found.layout.channel == 1:
                new = self._node("Transpose", [new], {"perm": [1, 0]}, found.layout.shape)
        else:
            new = self._restored(values, scale, name)
        new.name = f"{name}.restored"
        for node, index in readers:
            node.replace_input_with(index, new)
            if self.made.inputs is not None:
                self._scale_input(node, self.made.inputs, name)
        if self.made.left is not None:
            for node, _ in readers:
                correct(self.graph, self.made, name, node)

    def _scale_input(self, product: ir.Node, by: np.ndarray, name: str) -> None:
        """What was divided out of the weight, multiplied into the other factor of its product."""
        x = product.inputs[0]
        assert x is not None
        factor = add_constant(self.graph, by.astype(np.float32), f"{name}.inputs")
        kind = ir.DataType.FLOAT
        scaled = insert(product, "Mul", [x, factor], dtype=kind, shape=x.shape, before=True)
        product.replace_input_with(0, scaled.outputs[0])

    def _restored(self, values: ir.Value, scale: ir.Value, name: str) -> ir.Value:
        layout, stored = self.made.found.layout, self.made.scale.shape
        inputs = [values, scale]
        if self.made.zero is not None:
            inputs.append(self._weight(self.made.zero, f"{name}.zero_point"))
        attributes: dict[str, Any] = {"axis": layout.channel}
        if len(stored) == 2:
            axis = 1 if len(layout.shape) > 2 or layout.channel == 0 else 0
            attributes = {"axis": axis, "block_size": self.made.values.shape[axis] // stored[axis]}
        new = self._node("DequantizeLinear", inputs, attributes, self.made.values.shape)
        if self.made.values.shape != layout.shape:
            shape = add_constant(self.graph, np.array(layout.shape, np.int64), f"{name}.shape")
            new = self._node("Reshape", [new, shape], {}, layout.shape)
        return new

    def _scale(self, name: str) -> ir.Value:
        scale = self._weight(self.made.scale, f"{name}.scale")
        if scale.dtype == ir.DataType.FLOAT:
            return scale
        # In front of the DequantizeLinear, where runtimes fold it: behind it they would not know the pattern.
        return self._node("Cast", [scale], {"to": int(ir.DataType.FLOAT)}, self.made.scale.shape)

    def _weight(self, stored: Stored, name: str) -> ir.Value:
        value = add_initializer(self.graph, WeightRef(stored, name=name), name)
        assert value.const_value is not None
        value.const_value.name = value.name
        return value

    def _node(
        self, op_type: str, inputs: list[ir.Value], attributes: dict[str, Any], shape: tuple[int, ...]
    ) -> ir.Value:
        kind = ir.DataType.FLOAT
        return insert(self.before, op_type, inputs, attributes, dtype=kind, shape=shape, before=True).outputs[
            0
        ]
