"""NormalFloat 4 in a target-neutral graph, and how targets read it.

ONNX has no such type. The compiler writes a node `OP` of the domain `DOMAIN` instead: inputs are uint4
[rows, inner], indices into the sixteen levels, and floating-point scales [rows, inner / block_size]; the
output is float32 [rows, inner]. It always stands before a product: ``x . transpose(output)``, as
Transpose and MatMul, or as Gemm with transB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "latentc"
OP = "DequantizeNormalFloat4"
NAME = "nf4"
"""What targets call such weights (`targets.target_contract.Requirements.weight_formats`)."""


def add(graph: ir.Graph, before: ir.Node, values: ir.Value, scale: ir.Value, block: int) -> ir.Value:
    """A new node right before another; its output, float32 with the shape of `values`."""
    import onnx_ir as ir

    node = ir.node(OP, [values, scale], {"block_size": block}, domain=DOMAIN)
    node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, values.shape
    graph.insert_before(before, node)
    graph.opset_imports.setdefault(DOMAIN, 1)
    return node.outputs[0]


def nodes_of(graph: ir.Model) -> list[ir.Node]:
    """All nodes of the op."""
    return [node for node in graph.graph if (node.domain, node.op_type) == (DOMAIN, OP)]


def is_indices(value: ir.Value) -> bool:
    """Whether an initializer is nf4 data."""
    return any((use.node.domain, use.node.op_type) == (DOMAIN, OP) for use in value.uses())


def as_uint4(graph: ir.Model) -> tuple[ir.Model, frozenset[str]]:
    """A copy in which plain blockwise DequantizeLinear of the indices stands in, and the indices' names.

    The copy computes something else: the caller gives the element type back after a frontend has read it.
    Returns `graph` itself where there is no nf4.
    """
    if not nodes_of(graph):
        return graph, frozenset()
    from targets.graph.model_copy import copy_of  # A runtime needs the names of this file alone.

    copy = copy_of(graph)
    names = set()
    for node in nodes_of(copy):
        names.add(str(node.inputs[0].name))  # type: ignore[union-attr]
        block = node.attributes["block_size"].as_int()
        _replace(copy.graph, node, node, "", "DequantizeLinear", list(node.inputs), axis=1, block_size=block)
    del copy.graph.opset_imports[DOMAIN]
    return copy, frozenset(names)


def as_matmul_bnb4(graph: ir.Model) -> ir.Model:
    """A copy with ONNX Runtime's `MatMulBnb4` for each product; `graph` itself where there is no nf4.

    That operator holds flat bytes whose first element is in the high bits, and takes no bias.
    """
    if not nodes_of(graph):
        return graph
    from targets.graph.model_copy import copy_of  # A runtime needs the names of this file alone.

    copy = copy_of(graph)
    for node in nodes_of(copy):
        values, scale = node.inputs
        assert values is not None and scale is not None and values.shape is not None
        rows, inner = values.shape.numpy()
        products = [use.node for use in node.outputs[0].uses()]
        packed, flat = _repacked(copy.graph, values), _flat(copy.graph, scale, node)
        block = node.attributes["block_size"].as_int()
        attributes = {"K": inner, "N": rows, "quant_type": 1, "block_size": block}
        for product in products:
            ends = (
                [use.node for use in product.outputs[0].uses()]
                if product.op_type == "Transpose"
                else [product]
            )
            for end in ends:
                inputs = [end.inputs[0], packed, flat]
                if end.op_type == "Gemm" and len(end.inputs) > 2 and end.inputs[2] is not None:
                    _with_bias(copy.graph, end, inputs, attributes)
                else:
                    _replace(copy.graph, end, end, "com.microsoft", "MatMulBnb4", inputs, **attributes)
            if product.op_type == "Transpose":
                copy.graph.remove(product, safe=True)
        copy.graph.remove(node, safe=True)
        del copy.graph.initializers[str(values.name)]
    del copy.graph.opset_imports[DOMAIN]
    copy.graph.opset_imports["com.microsoft"] = 1
    return copy


def _replace(
    graph: ir.Graph,
    before: ir.Node,
    old: ir.Node,
    domain: str,
    op_type: str,
    inputs: list[Any],
    **attributes: int,
) -> ir.Node:
    import onnx_ir as ir

    node = ir.node(op_type, inputs, attributes, domain=domain)
    new, out = node.outputs[0], old.outputs[0]
    new.type, new.shape, new.name = out.type, out.shape, out.name
    graph.insert_before(before, node)
    ir.convenience.replace_all_uses_with(out, new, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    return node


def _with_bias(graph: ir.Graph, gemm: ir.Node, inputs: list[Any], attributes: dict[str, int]) -> None:
    import onnx_ir as ir

    product = ir.node("MatMulBnb4", inputs, attributes, domain="com.microsoft")
    product.outputs[0].dtype, product.outputs[0].shape = ir.DataType.FLOAT, gemm.outputs[0].shape
    graph.insert_before(gemm, product)
    _replace(graph, gemm, gemm, "", "Add", [product.outputs[0], gemm.inputs[2]])


def _repacked(graph: ir.Graph, values: ir.Value) -> ir.Value:
    """The indices as flat uint8 with the first of each pair in the high bits, still lazy."""
    import onnx_ir as ir

    tensor = values.const_value
    assert tensor is not None

    def read() -> ir.TensorProtocol:
        import numpy as np

        low_first = np.frombuffer(tensor.tobytes(), np.uint8)
        return ir.Tensor((low_first << 4) | (low_first >> 4), name=name)

    name = f"{values.name}.packed"
    shape = ir.Shape([(tensor.size + 1) // 2])
    lazy = ir.LazyTensor(read, dtype=ir.DataType.UINT8, shape=shape, name=name, cache=False)
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.UINT8), shape=shape, const_value=lazy)
    graph.register_initializer(value)
    return value


def _flat(graph: ir.Graph, scale: ir.Value, before: ir.Node) -> ir.Value:
    """The scales as float32 in one dimension, which is what the operator takes."""
    import onnx_ir as ir

    assert scale.shape is not None
    shape = ir.Value(
        name=f"{scale.name}.flat",
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape([1]),
        const_value=ir.tensor([-1], dtype=ir.DataType.INT64, name=f"{scale.name}.flat"),
    )
    graph.register_initializer(shape)
    node = ir.node("Reshape", [scale, shape])
    node.outputs[0].type = scale.type
    graph.insert_before(before, node)
    return node.outputs[0]


@dataclass(frozen=True)
class Place:
    """Where bytes lie in a file."""

    file: str
    offset: int
    length: int


def places(onnx_file: Any, names: frozenset[str]) -> dict[str, Place | bytes]:
    """Initializer name -> where an ONNX file keeps it: beside itself, or its bytes where they are inside.

    Reads the model file, not its external data.
    """
    import onnx

    model = onnx.load(onnx_file, load_external_data=False)
    result: dict[str, Place | bytes] = {}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            entries = {e.key: e.value for e in tensor.external_data}
            result[tensor.name] = (
                Place(entries["location"], int(entries["offset"]), int(entries["length"]))
                if entries
                else bytes(tensor.raw_data)
            )
    return result
