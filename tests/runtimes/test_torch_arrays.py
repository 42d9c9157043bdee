"""Arrays as tensors and back: whose memory they are on, and what they hold."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from runtimes.sessions.tensorrt import _on_host
from runtimes.torch_arrays import from_tensor, to_tensor


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.bool_, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_both_ways_on_one_memory(dtype: type, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    tensor = to_tensor(array)
    assert tensor.shape == shape and str(tensor.dtype) == f"torch.{np.dtype(dtype).name}"
    back = from_tensor(tensor)
    assert back.dtype == array.dtype and np.array_equal(back, array)
    assert np.shares_memory(back, array) == bool(array.size)


def test_an_array_that_may_not_be_written_is_copied() -> None:
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    to_tensor(array)[0] = 1
    assert array[0] == 0


@pytest.mark.parametrize("array", [np.ones((4, 6))[::-1, ::2], np.zeros(()), np.ones((2, 3)).T])
def test_an_engine_reads_tensors_in_one_piece(array: np.ndarray) -> None:
    tensor = _on_host(array)
    assert isinstance(tensor, torch.Tensor) and tensor.is_contiguous()
    assert tensor.shape == array.shape and np.array_equal(from_tensor(tensor), array)
