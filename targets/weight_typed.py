"""What is required of graphs whose weights are stored in one type, while their runtime chooses what it computes in."""

from __future__ import annotations

from artifacts.precisions import PRECISIONS
from targets.target_contract import Requirements

# Opset 21 is the first with blockwise int4 DequantizeLinear, 23 the first with Attention and the last that the oldest
# onnxruntime that we allow has kernels for on the CPU.
WEIGHT_TYPED = Requirements(
    opset=(17, 23),
    precisions=frozenset(PRECISIONS),
    typed="weights",
    weight_formats=frozenset({"int8", "uint8", "blocked int4", "blocked uint4", "nf4"}),
    passes=(),
    dynamic_shapes=True,
    activations="uint8",
)
