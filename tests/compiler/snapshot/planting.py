"""Changes as they come from new versions of exporters and libraries, planted into a graph."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compiler.capture.infer import Method
from compiler.export.scopes import MODULE
from compiler.snapshot.diff import Change, diff
from compiler.snapshot.fingerprint import fingerprint
from compiler.snapshot.prints import Snapshot
from targets.graph.edit import add_constant, alias, insert
from targets.graph.weights import Seeded, Transpose, WeightRef

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"


@dataclass(frozen=True)
class Exported:
    """A graph, the call that it answers, and the sizes of its costs."""

    graph: ir.Model
    method: Method
    sizes: dict[str, int]


def snapshot(model: ir.Model, exported: Exported) -> Snapshot:
    """The snapshot of one graph, read back from its own text."""
    from compiler.snapshot.prints import parse

    taken = Snapshot("Pipeline", "tests", (fingerprint(model, name="unet", sizes=exported.sizes),))
    return parse(taken.text(), "unet.graph")


def changes(before: ir.Model, after: ir.Model, exported: Exported) -> tuple[Change, ...]:
    """What is said of two graphs."""
    return diff(snapshot(before, exported), snapshot(after, exported))


def node(model: ir.Model, module: str, op_type: str, index: int = 0) -> ir.Node:
    """A node by its module and type."""
    found = [n for n in model.graph if n.op_type == op_type and n.metadata_props.get(MODULE) == module]
    return found[index]


def transpose_weight(model: ir.Model) -> None:
    value = node(model, f"{ATTENTION}.to_q", "MatMul").inputs[1]
    assert value is not None and isinstance(value.const_value, WeightRef)
    assert value.const_value.shape == (32, 32)  # the shape does not give it away
    value.const_value = value.const_value.then(Transpose((1, 0)))


def swap_weights(model: ir.Model) -> None:
    """The projections of queries and keys, whose weights have one shape."""
    q, k = (node(model, f"{ATTENTION}.{name}", "MatMul") for name in ("to_q", "to_k"))
    a, b = q.inputs[1], k.inputs[1]
    q.replace_input_with(1, b)
    k.replace_input_with(1, a)


def drop_scale(model: ir.Model) -> None:
    softmax = node(model, ATTENTION, "Softmax")
    product = softmax.inputs[0].producer()  # type: ignore[union-attr]
    assert product is not None and product.op_type == "MatMul"
    scale = product.inputs[0].producer()  # type: ignore[union-attr]
    assert scale is not None and scale.op_type == "Mul"
    alias(scale, [scale.inputs[0]])  # type: ignore[list-item]


def change_epsilon(model: ir.Model) -> None:
    norm = node(model, "mid_block.resnets.0.norm1", "GroupNormalization")
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def insert_cast(model: ir.Model) -> None:
    """A normalization in fp16, as an autocast would have it."""
    norm = node(model, "down_blocks.1.attentions.0.transformer_blocks.0.norm2", "LayerNormalization")
    value = norm.inputs[0]
    assert value is not None
    down = insert(
        norm, "Cast", [value], {"to": 10}, dtype=ir.DataType.FLOAT16, shape=value.shape, before=True
    )
    up = insert(down, "Cast", down.outputs, {"to": 1}, dtype=ir.DataType.FLOAT, shape=value.shape)
    norm.replace_input_with(0, up.outputs[0])


def break_attention(model: ir.Model) -> None:
    softmax = node(model, ATTENTION, "Softmax")
    scores = softmax.inputs[0]
    assert scores is not None
    exp = insert(softmax, "Exp", [scores], dtype=ir.DataType.FLOAT, shape=scores.shape)
    axes = add_constant(model.graph, np.array([-1]), "axes")
    total = insert(exp, "ReduceSum", [exp.outputs[0], axes], {"keepdims": 1}, dtype=ir.DataType.FLOAT)
    share = insert(
        total, "Div", [exp.outputs[0], total.outputs[0]], dtype=ir.DataType.FLOAT, shape=scores.shape
    )
    alias(softmax, share.outputs)


def bake_dimension(model: ir.Model) -> None:
    reshape = next(
        n for n in model.graph if n.op_type == "Reshape" and n.metadata_props.get(MODULE) == ATTENTION
    )
    assert reshape.inputs[1] is not None and reshape.inputs[1].const_value is not None
    shape = reshape.inputs[1].const_value.numpy().copy()
    shape[0] = 2
    reshape.replace_input_with(1, add_constant(model.graph, shape, "baked"))
    value = model.graph.inputs[0]
    value.shape = ir.Shape([2, *list(value.shape or ())[1:]])


def add_output(model: ir.Model) -> None:
    value = node(model, "mid_block.resnets.1", "Add", -1).outputs[0]
    value.name = "mid_sample"
    model.graph.outputs.append(value)


def bump_opset(model: ir.Model) -> None:
    model.graph.opset_imports[""] = 22


def quantize(model: ir.Model, but: str = "") -> None:
    """Every projection in int8, but those of the module `but`."""
    for matmul in [n for n in model.graph if n.op_type == "MatMul"]:
        value = matmul.inputs[1]
        if value is None or not isinstance(value.const_value, WeightRef):
            continue
        if but and matmul.metadata_props[MODULE] == but:
            continue
        ref = value.const_value
        columns = int(ref.shape.numpy()[1])
        stored = Seeded.of(ref.key, tuple(ref.shape.numpy()), ir.DataType.INT8)
        weight = ir.Value(name=f"{value.name}.q", const_value=WeightRef(stored), shape=ref.shape,
                          type=ir.TensorType(ir.DataType.INT8))  # fmt: skip
        scale = ir.Value(
            name=f"{value.name}.scale",
            const_value=WeightRef(Seeded.of(f"{ref.key}.scale", (columns,), ir.DataType.FLOAT)),
            shape=ir.Shape([columns]),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        for new in (weight, scale):
            model.graph.register_initializer(new)
        unpack = insert(matmul, "DequantizeLinear", [weight, scale], {"axis": 1},
                        dtype=ir.DataType.FLOAT, shape=ref.shape, before=True)  # fmt: skip
        matmul.replace_input_with(1, unpack.outputs[0])
        if not value.uses():
            del model.graph.initializers[str(value.name)]


def swap_skips(model: ir.Model) -> None:
    """Two skip connections of one block, of equal shapes, change places."""
    joins = [
        n for n in model.graph if n.op_type == "Concat" and n.metadata_props.get(MODULE) == "up_blocks.1"
    ]
    first, second = joins[:2]
    a, b = first.inputs[1], second.inputs[1]
    assert a is not b
    first.replace_input_with(1, b)
    second.replace_input_with(1, a)


def rename(model: ir.Model) -> None:
    """Other names for all nodes and inner values."""
    outside = {v.name for v in (*model.graph.inputs, *model.graph.outputs)}
    for number, item in enumerate(model.graph):
        item.name = f"node_{number}"
        for place, value in enumerate(item.outputs):
            if value.name not in outside:
                value.name = f"v{number}_{place}"
    for number, value in enumerate(list(model.graph.initializers.values())):
        value.name = f"w{number}"


def reorder(model: ir.Model, seed: int = 0) -> None:
    """Another order of nodes that is as right."""
    graph = model.graph
    nodes = list(graph)
    waiting = {n: {v.producer() for v in n.inputs if v is not None} - {None} for n in nodes}
    chance = random.Random(seed)
    done: set[ir.Node | None] = set()
    order: list[ir.Node] = []
    while waiting:
        ready = [n for n, needs in waiting.items() if needs <= done]
        chosen = chance.choice(ready)
        done.add(chosen)
        order.append(chosen)
        del waiting[chosen]
    graph.remove(nodes)
    graph.extend(order)
    assert list(graph) != nodes


def reverse_initializers(model: ir.Model) -> None:
    values = list(model.graph.initializers.items())
    for name, _ in values:
        del model.graph.initializers[name]
    for _, value in reversed(values):
        model.graph.register_initializer(value)
