"""What a target's graph files may hold: all that it writes. Anything else never reaches a vendor's parser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FileFormat:
    """The files of one target's graphs, as data beside the target.

    No format has graphs inside of nodes: no target writes control flow, and a loop is as long as its file says.

    Attributes:
        suffix: of the file that a session opens (".onnx"): vendors choose a parser by it.
        operators: domain -> names of the operators in it; None for all of a domain that holds none but the vendor's
            own. An OpenVINO IR has operator sets in the place of domains.
        never: names that are in no domain, whatever `operators` says.
    """

    suffix: str
    operators: Mapping[str, frozenset[str] | None]
    never: frozenset[str] = frozenset()

    def refuses(self, domain: str, operator: str) -> bool:
        """Whether no file of this format holds this operator."""
        names = self.operators.get(domain, frozenset())
        return operator in self.never or (names is not None and operator not in names)


# ONNX's own operators up to opset 23, but for those that hold graphs (If, Loop, Scan, SequenceMap), texts, sequences,
# optional values and encoded pictures: none of these comes of a module's tensors.
STANDARD = frozenset(
    """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad
    Clip Col2Im Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DFT DeformConv
    DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization
    MelWeightMatrix Min Mish Mod Mul Multinomial Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike
    Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT ScatterElements ScatterND
    Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub
    Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Where Xor
    """.split()
)


def onnx(*microsoft: str) -> FileFormat:
    """ONNX files with the standard operators, and these of the domain com.microsoft."""
    return FileFormat(".onnx", {"": STANDARD, "ai.onnx": STANDARD, "com.microsoft": frozenset(microsoft)})
