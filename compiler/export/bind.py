"""Initializers without data become references to stored tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensor

from artifacts.errors import LatentcError
from targets.graph.weights import Cast, Origin, WeightRef

_PREFIX = "module."  # `MethodCall.module`

# Origin floats of any width are weights of an fp32 graph.
_FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


def bind_weights(model: ir.Model, module: torch.nn.Module, weights: Mapping[str, Origin]) -> None:
    """Gives every initializer of `model` its data, in place: a `WeightRef`, or a buffer that was computed.

    Args:
        weights: name in the module -> where it is stored.

    Raises:
        LatentcError: an initializer is neither stored nor computed when the module is built.
    """
    unbound: list[str] = []
    for name, value in model.graph.initializers.items():
        key = name.removeprefix(_PREFIX)
        stored = weights.get(key)
        if stored is not None:
            ref = WeightRef(stored, name=name)
            wanted = value.dtype
            if (
                wanted is not None
                and ref.dtype != wanted
                and (ref.dtype in _FLOATS or wanted == ir.DataType.FLOAT)
            ):
                ref = ref.then(Cast(wanted))
            value.const_value = ref
            continue
        tensor = getattr(value.const_value, "raw", None)
        without_data = isinstance(tensor, FakeTensor)
        if without_data:
            tensor = _computed(module, key)
        if isinstance(tensor, torch.Tensor):
            value.const_value = ir.tensor(np.ascontiguousarray(tensor.detach().numpy()), name=name)
        elif without_data or value.const_value is None:
            unbound.append(key)
    if unbound:
        raise LatentcError(f"these weights are stored nowhere: {', '.join(unbound[:5])}.")


def _computed(module: torch.nn.Module, key: str) -> torch.Tensor | None:
    buffers = dict(module.named_buffers(remove_duplicate=False))
    buffer = buffers.get(key)
    return None if buffer is None or isinstance(buffer, FakeTensor) else buffer
