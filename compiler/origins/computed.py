"""Weights that are no tensors of a file: computed of those that are, or made by a library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch

from compiler.origins.bounds import bound
from compiler.origins.operation import Operation, inputs
from compiler.origins.operation_results import OF_TORCH, as_array, evaluated
from targets.graph.weights import Origin, Stored


@dataclass(frozen=True)
class Constant:
    """A small tensor that a library made itself (a mask, an identity): its bytes, C order."""

    data: bytes
    dtype: ir.DataType
    shape: tuple[int, ...]
    key: str = "constant"

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Constant:
        """The tensor's values as they are now."""
        array = as_array(tensor)
        return cls(array.tobytes(), OF_TORCH[tensor.dtype], tuple(array.shape))

    def read(self) -> np.ndarray:
        """The values."""
        return np.frombuffer(self.data, self.dtype.numpy()).reshape(self.shape)


class Computed(Operation):
    """The result of one operator on other origins, read by running it."""

    def named(self, key: str) -> Computed:
        """The same weight under another name."""
        return replace(self, key=key)

    def read(self) -> np.ndarray:
        """Runs the operators. Holds what they still need of each other's results, and nothing afterwards."""
        return as_array(evaluated(self))

    def bound(self) -> float | None:
        """What no element is larger than in size, where sums and products of small matrices tell; else None."""
        return bound(self)


def stored(origin: Origin) -> Iterator[Stored]:
    """The stored tensors that an origin is made of."""
    seen: set[int] = set()
    waiting = [origin]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Stored):
            yield node
        waiting.extend(inputs(node))
