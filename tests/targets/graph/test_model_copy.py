"""A copy of a model has types of its own."""

import onnx_ir as ir

from targets.graph.model_copy import copy_of


def values(model: ir.Model) -> list[ir.Value]:
    (node,) = model.graph
    return [*model.graph.inputs, *model.graph.initializers.values(), *node.outputs]


def test_a_type_that_is_set_in_a_copy_stays_there() -> None:
    float32 = ir.TensorType(ir.DataType.FLOAT)
    sample = ir.Value(name="sample", type=float32, shape=ir.Shape([2]))
    weight = ir.Value(name="weight", type=float32, shape=ir.Shape([2]), const_value=ir.tensor([1.0, 2.0]))
    node = ir.Node("", "Add", [sample, weight], outputs=[ir.Value(name="sum", type=float32)])
    graph = ir.Graph([sample], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 20})
    model = ir.Model(graph, ir_version=10)
    copied = copy_of(model)
    for value in values(copied):
        value.dtype = ir.DataType.FLOAT16
    assert {value.dtype for value in values(model)} == {ir.DataType.FLOAT}
    assert copied.graph.initializers["weight"].const_value is weight.const_value
