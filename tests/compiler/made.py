"""Requests, captured methods and stored tensors made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from artifacts.call_trees import TensorLeaf
from artifacts.manifest import DimRange, TensorSpec
from compiler.capture.declared_sizes import SizeRange
from compiler.capture.infer import Method
from compiler.compile_request import CompileRequest
from targets.graph.weights import Stored


class Function(torch.nn.Module):
    """A function of one tensor as a module, to be exported."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def method(**changes: Any) -> Method:
    """unet.forward of one input `x` and one result `out`, both [batch, 4], exported at batch 2."""
    fields: dict[str, Any] = {
        "component": "unet",
        "method": "forward",
        "folder": "unet",
        "arguments": {"x": TensorLeaf(name="x")},
        "result": TensorLeaf(name="out"),
        "inputs": (spec("x", "batch", 4),),
        "outputs": (spec("out", "batch", 4),),
        "dims": {},
        "shapes": ({"batch": 2}, {"batch": 3}),
    }
    return Method(**(fields | changes))


def stored(key: str, *shape: int, dtype: ir.DataType = ir.DataType.FLOAT) -> Stored:
    """A tensor in a file that is not there."""
    return Stored(Path("none.safetensors"), key, dtype, shape, 0, math.prod(shape) * dtype.itemsize)


def request(out: Path, **changes: Any) -> CompileRequest:
    """One picture of 32x32 in fp32 for ONNX Runtime, unchecked, of a model that is not there."""
    side = DimRange(min=32, max=32)
    base = CompileRequest(
        "no-such-model", out, "onnxruntime", "fp32", size=SizeRange(side, side), check="none"
    )
    return replace(base, **changes)
