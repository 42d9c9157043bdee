"""The whole graph in fp16 or bf16, with what needs more kept in fp32, and fp32 inputs and outputs.

The form for runtimes that run the types that the graph names. What stays in fp32:
  - ops that are precise in fp32 only, whatever the model (`FULL_PRECISION`), and what feeds phases;
  - ops and inputs that the ONNX schema allows in fp32 only (Range, the scales of Resize);
  - nodes with constants that the lower type cannot hold, and nodes with subgraphs.
A Cast stands on each border, one for each value and direction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compiler.passes.precision import EXTREME, element_type, fits, lowered
from targets.graph.constants import constant
from targets.graph.edit import add_initializer
from targets.graph.graph_validity import complete
from targets.graph.weights import Cast, WeightRef

FULL_PRECISION: dict[str, str] = {
    "Sin": "a phase needs absolute precision: an angle of 1000 is off by 0.25 in fp16 and by 4 in bf16",
    "Cos": "a phase, as Sin",
    "Pow": "squares overflow fp16 from 256 on; diffusers and transformers compute them in fp32 themselves",
    "ReduceMean": "sums of many elements lose the small ones",
    "ReduceSum": "as ReduceMean",
    "ReduceL2": "squares and sums",
    "ReduceSumSquare": "squares and sums",
    "CumSum": "as ReduceMean; positions above 2048 are no fp16 numbers",
    "Range": "positions above 2048 are no fp16 numbers",
    "Log": "of small numbers that fp16 flushes to zero",
}

# Between them no precision is gained by going down: the value is cast where it is used.
_PHASES = frozenset({"Sin", "Cos"})
_HEAVY = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Softmax"}) | {
    "LayerNormalization", "GroupNormalization", "InstanceNormalization"
}  # fmt: skip


@dataclass(frozen=True)
class StrongOptions:
    """What is lowered, and what is not.

    Attributes:
        precision: "fp16" or "bf16".
        keep: initializers that stay in fp32 (`precision.out_of_range` finds them), with their readers.
    """

    precision: str = "fp16"
    keep: frozenset[str] = frozenset()


class PrecisionStrongPass(ir.passes.InPlacePass):
    """Lowers every float32 tensor of the main graph that may be lowered.

    Types that the graph lacks are inferred first; a value whose type stays unknown is an error.
    """

    def __init__(self, options: StrongOptions = StrongOptions()) -> None:
        super().__init__()
        self.options = options
        self.dtype = element_type(options.precision)

    def requires(self, model: ir.Model) -> None:
        if model.functions:
            raise ir.passes.PreconditionError("functions must be inlined first (pass 'inline')")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        complete(model)
        return ir.passes.PassResult(model, _Lowering(model, self.options, self.dtype).run())


class _Lowering:
    def __init__(self, model: ir.Model, options: StrongOptions, dtype: ir.DataType) -> None:
        self.graph = model.graph
        self.opset = model.graph.opset_imports.get("", 21)
        self.options = options
        self.dtype = dtype
        self._schemas: dict[str, _Schema] = {}
        self._read_low: set[ir.Value] = set()
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> bool:
        nodes = list(self.graph)
        floats = {
            v
            for v in self._values(nodes)
            if isinstance(v.type, ir.TensorType) and v.dtype == ir.DataType.FLOAT
        }
        islands = self._islands(nodes)
        low = {v for v in floats if not v.is_graph_input() and self._is_low(v, islands)}
        self._read_low = {
            v
            for n in nodes if n not in islands
            for i, v in enumerate(n.inputs) if v in low and self._schema(n).lower_input(i)
        }  # fmt: skip
        for value in low:
            if not value.is_initializer():
                value.dtype = self.dtype
        for node in nodes:
            self._convert(node, node in islands, low, floats)
        self._restore_outputs(low)
        return bool(low)

    def _values(self, nodes: list[ir.Node]) -> Iterable[ir.Value]:
        yield from self.graph.inputs
        yield from self.graph.initializers.values()
        for node in nodes:
            yield from node.outputs

    def _schema(self, node: ir.Node) -> _Schema:
        if node.op_type not in self._schemas:
            self._schemas[node.op_type] = _Schema.of(node.op_type, self.opset, self.dtype)
        return self._schemas[node.op_type]

    # --- which nodes stay ------------------------------------------------------------------------

    def _islands(self, nodes: list[ir.Node]) -> set[ir.Node]:
        islands = {n for n in nodes if self._must_stay(n)}
        self._spread_phases(nodes, islands)
        self._close_gaps(nodes, islands)
        return islands

    def _must_stay(self, node: ir.Node) -> bool:
        if node.op_type in FULL_PRECISION or node.op_type == "Constant" or node.domain not in ("", "ai.onnx"):
            return True
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            return True
        if any(v is not None and v.name in self.options.keep for v in node.inputs):
            return True
        if not self._schema(node).takes_lower:
            return True
        return any(self._needs_full(v) for v in node.inputs if v is not None)

    def _needs_full(self, value: ir.Value) -> bool:
        """Whether a constant loses its meaning in the lower type; weights are `keep`'s business."""
        if value.dtype != ir.DataType.FLOAT or value.const_value is None or value.const_value.size > 65536:
            return False
        array = constant(value)
        return array is not None and not fits(array[np.abs(array) < EXTREME], self.dtype)

    def _spread_phases(self, nodes: list[ir.Node], islands: set[ir.Node]) -> None:
        pending = [n for n in nodes if n.op_type in _PHASES]
        while pending:
            for value in pending.pop().inputs:
                maker = None if value is None else value.producer()
                if maker is not None and maker not in islands and maker.op_type not in _HEAVY:
                    islands.add(maker)
                    pending.append(maker)

    def _close_gaps(self, nodes: list[ir.Node], islands: set[ir.Node]) -> None:
        """A node between islands joins them: `mean + epsilon` between a ReduceMean and a Sqrt."""
        changed = True
        while changed:
            changed = False
            for node in nodes:
                if node in islands or node.op_type in _HEAVY or not node.outputs:
                    continue
                makers = [v.producer() for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
                inner = [m for m in makers if m is not None]
                readers = [use.node for v in node.outputs for use in v.uses()]
                root = node.op_type in ("Sqrt", "Reciprocal", "Rsqrt")
                if (
                    inner
                    and all(m in islands for m in inner)
                    and (root or (readers and self._all(readers, islands)))
                ):
                    islands.add(node)
                    changed = True

    @staticmethod
    def _all(readers: list[ir.Node], islands: set[ir.Node]) -> bool:
        return all(r in islands or r.op_type in ("Sqrt", "Reciprocal") for r in readers)

    def _is_low(self, value: ir.Value, islands: set[ir.Node]) -> bool:
        maker = value.producer()
        if maker is not None:
            return maker not in islands and self._schema(maker).lower_output(maker.outputs.index(value))
        return value.is_initializer() and value.name not in self.options.keep

    # --- conversion ------------------------------------------------------------------------------

    def _convert(self, node: ir.Node, island: bool, low: set[ir.Value], floats: set[ir.Value]) -> None:
        schema = None if island else self._schema(node)
        for i, value in enumerate(node.inputs):
            if value is None or value not in floats:
                continue
            wanted = self.dtype if schema is not None and schema.lower_input(i) else ir.DataType.FLOAT
            new = self._as(value, wanted, node, low)
            if new is not value:
                node.replace_input_with(i, new)
        if island:
            self._convert_captured(node, low, floats)
        elif node.op_type in ("Cast", "CastLike", "ConstantOfShape") and node.outputs[0] in floats:
            self._retype(node)

    def _convert_captured(self, node: ir.Node, low: set[ir.Value], floats: set[ir.Value]) -> None:
        for attribute in node.attributes.values():
            graphs = (
                [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH
                else attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else []
            )  # fmt: skip
            for graph in graphs:
                for inner in ir.traversal.RecursiveGraphIterator(graph):
                    for i, value in enumerate(inner.inputs):
                        if value is not None and value in floats and value in low:
                            inner.replace_input_with(i, self._as(value, ir.DataType.FLOAT, node, low))

    def _retype(self, node: ir.Node) -> None:
        """Nodes that name their output's type in an attribute name the lower one."""
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", int(self.dtype))
        elif node.op_type == "CastLike":
            node.op_type, node.attributes["to"] = "Cast", ir.AttrInt64("to", int(self.dtype))
            node.resize_inputs(1)
        else:
            attribute = node.attributes.get("value")
            array = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
            tensor = lowered(ir.Tensor(array), self.dtype, lambda w: w)
            node.attributes["value"] = ir.AttrTensor("value", tensor)

    def _as(self, value: ir.Value, wanted: ir.DataType, node: ir.Node, low: set[ir.Value]) -> ir.Value:
        if value.is_initializer() and not value.is_graph_input():
            return self._initializer_as(value, wanted, node, low)
        if value.dtype == wanted:
            return value
        return self._cast(value, wanted, node)

    def _cast(self, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
        converted = self._casts.get((value, wanted))
        if converted is None:
            cast = ir.node("Cast", [value], {"to": int(wanted)})
            converted = cast.outputs[0]
            converted.dtype, converted.shape = wanted, value.shape
            converted.name = f"{value.name}.{wanted.name.lower()}"
            maker = value.producer()
            # Right behind the maker, so that every later reader can share it.
            if maker is not None and maker.graph is self.graph:
                self.graph.insert_after(maker, cast)
            else:
                first = next(iter(self.graph))
                self.graph.insert_before(first, cast)
            self._casts[(value, wanted)] = converted
        return converted

    def _initializer_as(
        self, value: ir.Value, wanted: ir.DataType, node: ir.Node, low: set[ir.Value]
    ) -> ir.Value:
        """A constant in the wanted type: stored so, unless that would store a large one twice."""
        tensor, name = value.const_value, value.name
        assert tensor is not None and name is not None
        if wanted == ir.DataType.FLOAT:
            if value not in self._read_low or tensor.size <= 65536:
                return value
            return self._cast(self._initializer_as(value, self.dtype, node, low), wanted, node)
        if value not in low:
            return self._cast(value, wanted, node)
        converted = self._casts.get((value, wanted))
        if converted is None:
            new = lowered(tensor, wanted, lambda w: WeightRef.then(w, Cast(wanted)))
            converted = self._casts[(value, wanted)] = add_initializer(
                self.graph, new, f"{name}.{wanted.name.lower()}"
            )
        return converted

    def _restore_outputs(self, low: set[ir.Value]) -> None:
        """Graph outputs stay fp32 under their own names; initializers nobody reads any more go."""
        for i, value in enumerate(self.graph.outputs):
            if value not in low or value.producer() is None:
                continue
            name = value.name
            value.name = f"{name}.{self.dtype.name.lower()}"
            up = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)})
            up.outputs[0].dtype, up.outputs[0].shape, up.outputs[0].name = (
                ir.DataType.FLOAT,
                value.shape,
                name,
            )
            self.graph.append(up)
            self.graph.outputs[i] = up.outputs[0]
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del self.graph.initializers[name]
        self._rename()

    def _rename(self) -> None:
        """A weight whose only form is the lower one keeps its own name."""
        suffix = f".{self.dtype.name.lower()}"
        for name, value in list(self.graph.initializers.items()):
            plain = name.removesuffix(suffix)
            if plain != name and plain not in self.graph.initializers:
                value.name = plain


@dataclass(frozen=True)
class _Schema:
    """Which inputs and outputs of an op may have the lower type."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]

    @property
    def takes_lower(self) -> bool:
        return any(self.inputs) or any(self.outputs)

    def lower_input(self, i: int) -> bool:
        return self.inputs[min(i, len(self.inputs) - 1)] if self.inputs else False

    def lower_output(self, i: int) -> bool:
        return self.outputs[min(i, len(self.outputs) - 1)] if self.outputs else False

    @classmethod
    def of(cls, op_type: str, opset: int, dtype: ir.DataType) -> _Schema:
        import onnx

        schema = onnx.defs.get_schema(op_type, opset)
        wanted = f"tensor({dtype.name.lower()})"
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}

        def takes(parameter: onnx.defs.OpSchema.FormalParameter) -> bool:
            return wanted in allowed.get(parameter.type_str, [parameter.type_str])

        return cls(
            tuple(takes(p) for p in schema.inputs),
            tuple(takes(p) for p in schema.outputs),
        )
