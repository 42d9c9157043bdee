"""Arrays as PyTorch's tensors and back, on the same memory.

NumPy's bfloat16 is ml_dtypes', which PyTorch does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def to_tensor(array: np.ndarray) -> Any:
    """A torch tensor on the array's memory; copied only if the array is read-only."""
    import numpy as np
    import torch

    if not array.flags.writeable:
        array = array.copy()
    if array.dtype.type.__name__ == "bfloat16":  # NumPy puts the name of a dtype together each time.
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def from_tensor(tensor: Any) -> np.ndarray:
    """A tensor on the CPU as an array on its memory."""
    import torch

    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        bits: np.ndarray = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array
