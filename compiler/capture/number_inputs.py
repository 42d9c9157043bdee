"""Integer inputs that a module uses as plain numbers, such as a timestep: they may be fractions as well.

What a scheduler hands to a denoiser is a number, which one scheduler keeps as int64 and another as float32. Whether a
module takes both is asked of the module: it is run with the number as float32. One that looks the number up in a
table, or counts with its bits, refuses that or returns something else, and its input stays an integer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compiler.capture import trees

NUMBER = torch.float32
"""Holds whole numbers up to 2**24 exactly."""

_INTEGERS = (torch.int64, torch.int32, torch.int16)


def candidates(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The integer tensors that hold one number, or one for each item of a batch; larger ones are ids and masks."""
    return [name for name, tensor in tensors.items() if tensor.dtype in _INTEGERS and tensor.ndim <= 1]


def as_number(arguments: Any, tensor: torch.Tensor) -> Any:
    """`arguments` (lists, tuples, dicts) with `tensor` as a number."""
    return trees.map_tensors(arguments, lambda value: value.to(NUMBER) if value is tensor else value)


class WithValues(TorchDispatchMode):
    """Refuses what torch does without a word on tensors that have no values, and refuses on those that have."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        index = args[2:3] if name in ("index_select", "index_add", "index_copy", "index_fill") else ()
        operands = args if name.startswith(("bitwise_", "__")) else index
        for value in tree_leaves((operands, {})):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                raise TypeError(f"{name} of {value.dtype}")
        return func(*args, **(kwargs or {}))
