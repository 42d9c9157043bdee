"""Element types and shapes of values that the exporter left without, node by node, reading no weight.

The exporter annotates what PyTorch knew; what it made itself (decompositions, shape arithmetic) is bare.
`Shapes.visit` fills those in from the inputs.
"""

from __future__ import annotations

import onnx_ir as ir

from targets.graph.constants import int_attribute, ints_attribute
from targets.graph.dims import Dims, dims
from targets.graph.integer_contents import Contents
from targets.graph.shape_rules import SHAPE_RULES, broadcast

_LIKE_FIRST = frozenset(
    "Abs Acos Asin Atan BatchNormalization Ceil Celu Clip Cos Cosh CumSum Dropout Elu Erf Exp Floor "
    "Gelu GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization "
    "LeakyRelu Log LogSoftmax LpNormalization Mish Neg Not RMSNormalization Reciprocal Relu Round "
    "ScatterElements ScatterND Selu Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh "
    "ThresholdedRelu Trilu".split()
)
_BROADCAST = frozenset("Add Sub Mul Div Mod Pow Max Min And Or Xor BitShift Mean Sum PRelu".split())
_COMPARE = frozenset("Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor".split())
_SEQUENCES = frozenset("SplitToSequence SequenceConstruct SequenceInsert SequenceErase".split())
_PREDICATE = frozenset("IsNaN IsInf".split())
_REDUCE = frozenset(
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare "
    "ReduceLogSumExp".split()
)


class Shapes(Contents):
    """Shape and content knowledge of one graph, filled in topological order by `visit`."""

    def visit(self, node: ir.Node) -> None:
        """Fills in what is missing on the node's outputs."""
        if node.domain not in ("", "ai.onnx") or not node.outputs:
            return
        out = node.outputs[0]
        if node.op_type in _SEQUENCES:
            element_type = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
            if element_type is not None:
                out.type = ir.SequenceType(ir.TensorType(element_type))
            return
        if node.op_type == "Split":
            self._split(node)
        if out.type is None:
            dtype = self._dtype(node)
            if dtype is not None:
                out.dtype = dtype
        declared = dims(out)
        if declared is None or None in declared:
            shape = self._shape(node)
            if shape is not None:
                if declared is not None and len(declared) == len(shape):
                    shape = tuple(f if k is None else k for k, f in zip(declared, shape, strict=False))
                out.shape = ir.Shape(shape)
        self.record(node)

    def _split(self, node: ir.Node) -> None:
        """The lengths of the parts, where they are known; equal ones where no lengths are given."""
        shape = dims(node.inputs[0])
        if shape is None:
            return
        axis = int_attribute(node, "axis", 0) % len(shape)
        lengths: Dims | None
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            lengths = self.contents(node.inputs[1])
        else:
            count, length = len(node.outputs), shape[axis]
            even = isinstance(length, int) and length % count == 0
            lengths = (length // count,) * count if isinstance(length, int) and even else None
        if lengths is None or len(lengths) != len(node.outputs):
            lengths = (None,) * len(node.outputs)
        for part, length in zip(node.outputs, lengths, strict=True):
            declared = dims(part)
            if declared is None or None in declared:
                part.shape = ir.Shape([*shape[:axis], length, *shape[axis + 1 :]])
            if part.type is None and node.inputs[0] is not None and node.inputs[0].dtype is not None:
                part.dtype = node.inputs[0].dtype

    # --- element types ---------------------------------------------------------------------------

    def _dtype(self, node: ir.Node) -> ir.DataType | None:
        op = node.op_type
        if op in _COMPARE or op in _PREDICATE:
            return ir.DataType.BOOL
        if op in ("Shape", "Size", "ArgMax", "ArgMin", "NonZero"):
            return ir.DataType.INT64
        if op == "Cast":
            return ir.DataType(int_attribute(node, "to", 1))
        if op == "ConstantOfShape":
            filling = node.attributes.get("value")
            return ir.DataType.FLOAT if filling is None else filling.as_tensor().dtype
        if op == "CastLike" or op == "Where":
            return node.inputs[1].dtype if node.inputs[1] is not None else None
        if op in ("If", "Loop", "Scan", "DequantizeLinear", "QuantizeLinear"):
            return None
        for value in node.inputs:
            return None if value is None else value.dtype
        return None

    # --- shapes ----------------------------------------------------------------------------------

    def _shape(self, node: ir.Node) -> Dims | None:
        op = node.op_type
        first = dims(node.inputs[0]) if node.inputs else None
        if op in _LIKE_FIRST or op in _PREDICATE or op in ("Cast", "CastLike"):
            return first
        if op in _BROADCAST or op in _COMPARE or op == "Where":
            return broadcast([dims(v) for v in node.inputs])
        if op in _REDUCE:
            return self._reduced(node, first)
        rule = SHAPE_RULES.get(op)
        return None if rule is None else rule(self, node, first)

    def _reduced(self, node: ir.Node, first: Dims | None) -> Dims | None:
        if first is None:
            return None
        keep = bool(int_attribute(node, "keepdims", 1))
        axes = ints_attribute(node, "axes")
        if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
            contents = self.contents(node.inputs[1])
            if contents is None or not all(isinstance(a, int) for a in contents):
                return None
            axes = contents  # type: ignore[assignment]
        if not axes:
            if int_attribute(node, "noop_with_empty_axes", 0):
                return first
            axes = tuple(range(len(first)))
        gone = {a % len(first) for a in axes}
        return tuple(1 if i in gone else d for i, d in enumerate(first) if keep or i not in gone)
