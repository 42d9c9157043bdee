"""What OpenVINO's operators are called in ONNX."""

from __future__ import annotations

from collections.abc import Mapping

ONNX_NAMES: Mapping[str, str] = {
    "AvgPool": "AveragePool",
    "Broadcast": "Expand",
    "Ceiling": "Ceil",
    "Clamp": "Clip",
    "Convert": "Cast",
    "ConvertLike": "CastLike",
    "Convolution": "Conv",
    "ConvolutionBackpropData": "ConvTranspose",
    "Divide": "Div",
    # It rounds as QuantizeLinear does, and scales back at once.
    "FakeQuantize": "QuantizeLinear",
    "GreaterEqual": "GreaterOrEqual",
    "GroupConvolution": "Conv",
    "GroupConvolutionBackpropData": "ConvTranspose",
    "HSigmoid": "HardSigmoid",
    "HSwish": "HardSwish",
    "Interpolate": "Resize",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalNot": "Not",
    "LogicalOr": "Or",
    "LogicalXor": "Xor",
    "Maximum": "Max",
    "Minimum": "Min",
    "Multiply": "Mul",
    "Negative": "Neg",
    "PReLU": "PRelu",
    "Power": "Pow",
    "ReLU": "Relu",
    "ScatterElementsUpdate": "ScatterElements",
    "ScatterNDUpdate": "ScatterND",
    "Select": "Where",
    "ShapeOf": "Shape",
    "SoftMax": "Softmax",
    "SoftPlus": "Softplus",
    "SoftSign": "Softsign",
    "Subtract": "Sub",
    "VariadicSplit": "Split",
}
"""The type of a layer in an IR -> ONNX's op_type, where the two differ."""


def onnx_name(layer_type: str) -> str:
    """ONNX's op_type of a layer's type; the type itself where both are called the same, or ONNX has none (MVN)."""
    return ONNX_NAMES.get(layer_type, layer_type)
