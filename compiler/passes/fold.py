"""Constant folding in one forward walk that never reads a weight.

Four things happen to each node, the first that fits:
  1. what it computes is known (shape arithmetic with static results, all inputs constant): a constant;
  2. it moves a weight's elements about (a Linear's Transpose): a step in the weight's transform chain;
  3. it does nothing, or a simpler node does the same (`fold_rules`);
  4. it stays, with its shape and type filled in.

Small constants are evaluated by ONNX's reference implementation, and each distinct expression only once:
constants are interned, so equal nodes have identical inputs and the result is looked up. A transformer
repeats the same few hundred expressions tens of thousands of times.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from compiler.passes import fold_rules, fold_weights
from compiler.passes.cse import RANDOM_OPS, attributes_key, tensor_key
from targets.graph.constants import is_small
from targets.graph.dims import static
from targets.graph.edit import add_initializer, alias
from targets.graph.shapes import Shapes

logger = logging.getLogger(__name__)

# Quantized constants stay quantized.
_NEVER_FOLDED = RANDOM_OPS | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


class FoldPass(ir.passes.InPlacePass):
    """Folds constants, shape arithmetic and no-ops; moves layout changes of weights into their WeightRefs.

    Args:
        limit: constants of more elements than this are not made.
    """

    def __init__(self, limit: int = 65536) -> None:
        super().__init__()
        self.limit = limit

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, _Folder(model, self.limit).run())


class _Folder:
    def __init__(self, model: ir.Model, limit: int) -> None:
        self.graph = model.graph
        self.opset = model.graph.opset_imports.get("", 21)
        self.limit = limit
        self.shapes = Shapes()
        self._interned: dict[Hashable, ir.Value] = {}
        self._evaluated: dict[Hashable, ir.Value | None] = {}

    def run(self) -> bool:
        modified = False
        for value in self.graph.initializers.values():
            key = tensor_key(value.const_value)
            if key is not None and not value.is_graph_input() and is_small(value.const_value):
                self._interned.setdefault(key, value)
        for node in self.graph:
            if node.domain not in ("", "ai.onnx"):
                continue
            self.shapes.visit(node)
            outputs = self._fold(node)
            if outputs is not None:
                alias(node, outputs)
                modified = True
        return modified

    def _fold(self, node: ir.Node) -> Sequence[ir.Value] | None:
        if node.op_type == "Constant":
            tensor = _constant_tensor(node)
            return None if tensor is None else [self.intern(tensor, node.outputs[0].name or "constant")]
        if node.op_type == "Identity" and node.outputs[0].is_graph_output():
            source = node.inputs[0]
            if source is None or source.producer() is None or source.is_graph_output():
                return None  # it is what keeps the output's name
        folded = self._known_integers(node) or self._evaluate(node)
        if folded is not None:
            return [folded]
        moved = fold_weights.fold(node, self.graph, self.shapes)
        if moved is not None:
            return moved
        return fold_rules.simplify(node, self.graph, self.shapes)

    # --- constants -------------------------------------------------------------------------------

    def intern(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """The one initializer that holds `tensor`'s data."""
        key = tensor_key(tensor)
        if key is None:
            return add_initializer(self.graph, tensor, name)
        value = self._interned.get(key)
        # An initializer that lost its last use was taken out of the graph: make it anew.
        if value is None or not value.is_initializer():
            value = self._interned[key] = add_initializer(self.graph, tensor, name)
        return value

    def _known_integers(self, node: ir.Node) -> ir.Value | None:
        if len(node.outputs) != 1 or node.outputs[0].dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        out = node.outputs[0]
        elements, shape = self.shapes.fixed(out), static(out)
        if elements is None or shape is None or len(shape) > 1 or math.prod(shape) != len(elements):
            return None
        assert out.dtype is not None
        array = np.array(elements, dtype=out.dtype.numpy()).reshape(shape)
        return self.intern(ir.Tensor(array), out.name or "folded")

    def _evaluate(self, node: ir.Node) -> ir.Value | None:
        if len(node.outputs) != 1 or node.op_type in _NEVER_FOLDED or not node.inputs:
            return None
        for value in node.inputs:
            if value is not None and (value.is_graph_input() or not is_small(value.const_value)):
                return None
        size = static(node.outputs[0])
        if size is None or math.prod(size) > self.limit:
            return None
        attributes = attributes_key(node)
        if attributes is None:
            return None
        key = (node.op_type, tuple(node.inputs), attributes)
        if key in self._evaluated:
            cached = self._evaluated[key]
            if cached is None or cached.is_initializer():
                return cached
            assert cached.const_value is not None
            return self.intern(cached.const_value, cached.name or "folded")
        array = self._reference(node, size)
        value = None if array is None else self.intern(ir.Tensor(array), node.outputs[0].name or "folded")
        self._evaluated[key] = value
        return value

    def _reference(self, node: ir.Node, size: tuple[int, ...]) -> np.ndarray | None:
        """What ONNX's reference implementation gives; None where it has none or it does not fit the node."""
        from onnx.reference import ops

        arguments = [
            None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs
        ]
        attributes: dict[str, Any] = {
            name: ir.serde.serialize_tensor(a.as_tensor()) if a.type == ir.AttributeType.TENSOR else a.value
            for name, a in node.attributes.items()
        }
        try:
            with np.errstate(all="ignore"):
                result = ops.load_op("", node.op_type, self.opset).eval(*arguments, **attributes)
        except Exception as error:  # the reference lacks ops and types; whatever it says, the node just stays
            logger.debug("%s is not folded: %s", node.name, error)
            return None
        if isinstance(result, (tuple, list)) and len(result) == 1:
            result = result[0]
        dtype = node.outputs[0].dtype
        if (
            dtype is None
            or dtype == ir.DataType.STRING
            or isinstance(result, (tuple, list))
            or result is None
        ):
            return None
        array = np.asarray(result)
        if array.dtype != dtype.numpy():
            if not (array.dtype.kind == "f" and dtype.is_floating_point()):
                return None
            array = array.astype(dtype.numpy())  # NumPy promotes scalars to float64
        return array if array.shape == size else None


def _constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node, whichever attribute it is in; None for strings and sparse tensors."""
    if len(node.attributes) != 1:
        return None
    name, attribute = next(iter(node.attributes.items()))
    if name == "value":
        return attribute.as_tensor()
    if name in ("value_int", "value_ints"):
        return ir.Tensor(np.array(attribute.value, dtype=np.int64))
    if name in ("value_float", "value_floats"):
        return ir.Tensor(np.array(attribute.value, dtype=np.float32))
    return None
