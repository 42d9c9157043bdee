"""What a graph computes in fp64, in fp32: for runtimes that have no double precision.

Models use it for tables of positions and frequencies. In fp32 an angle of 1,000 is off by 6e-5 at most, which no
activation in fp16 tells apart. Inputs and outputs of the graph keep their type, behind a Cast.
"""

from __future__ import annotations

import onnx_ir as ir

from compiler.passes.precision import lowered
from targets.graph.weights import Cast

_WIDE, _NARROW = ir.DataType.DOUBLE, ir.DataType.FLOAT
# Attributes that name an element type.
_TYPES = ("to", "dtype")


class WithoutFp64Pass(ir.passes.InPlacePass):
    """Makes fp32 of every value, constant and type attribute that is fp64."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = self._borders(model.graph)
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and tensor.dtype == _WIDE:
                    value.const_value = lowered(tensor, _NARROW, lambda weight: weight.then(Cast(_NARROW)))
                    value.dtype, modified = _NARROW, True
        for node in model.graph.all_nodes():
            if node.metadata_props.pop(_BORDER, None) is None:
                modified |= self._narrow(node)
        for node in list(model.graph):
            self._drop(model.graph, node)
        return ir.passes.PassResult(model, modified)

    def _borders(self, graph: ir.Graph) -> bool:
        """Casts below the inputs and above the outputs that are fp64."""
        modified = False
        for value in [v for v in graph.inputs if v.dtype == _WIDE]:
            down = _cast(value, f"{value.name}.fp32", _NARROW)
            ir.convenience.replace_all_uses_with(value, down.outputs[0])
            down.replace_input_with(0, value)
            first = next(iter(graph), None)
            graph.append(down) if first is None else graph.insert_before(first, down)
            modified = True
        for i, value in enumerate(graph.outputs):
            if value.dtype == _WIDE:
                name = str(value.name)
                value.name = f"{name}.fp32"
                up = _cast(value, name, _WIDE)
                graph.append(up)
                graph.outputs[i] = up.outputs[0]
                modified = True
        return modified

    def _narrow(self, node: ir.Node) -> bool:
        modified = False
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.INT and name in _TYPES and attribute.as_int() == _WIDE:
                node.attributes[name] = ir.AttrInt64(name, int(_NARROW))
                modified = True
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _WIDE:
                tensor = lowered(attribute.as_tensor(), _NARROW, lambda weight: weight.then(Cast(_NARROW)))
                node.attributes[name] = ir.AttrTensor(name, tensor)
                modified = True
        for value in node.outputs:
            if value.dtype == _WIDE:
                value.dtype = _NARROW
                modified = True
        return modified

    def _drop(self, graph: ir.Graph, node: ir.Node) -> None:
        """Removes a Cast of fp32 to fp32."""
        source, result = (node.inputs[0], node.outputs[0]) if node.op_type == "Cast" else (None, None)
        if source is None or result is None or not source.dtype == result.dtype == _NARROW:
            return
        if not result.is_graph_output():
            ir.convenience.replace_all_uses_with(result, source)
            graph.remove(node, safe=True)


# Marks our own Cast back to fp64, which stays one.
_BORDER = "latentc.border"


def _cast(value: ir.Value, name: str, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)})
    node.metadata_props[_BORDER] = ""
    out = node.outputs[0]
    out.name, out.dtype, out.shape = name, dtype, value.shape
    return node
