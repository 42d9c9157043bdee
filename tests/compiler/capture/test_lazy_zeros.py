"""Zeros that take no memory until they are written."""

from __future__ import annotations

import pytest
import torch

from artifacts.resident import resident
from compiler.capture.lazy_zeros import lazy_zeros


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_they_have_that_shape_and_dtype(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    zeros = lazy_zeros(shape, dtype)
    assert (zeros.dtype, zeros.shape) == (dtype, shape)
    assert zeros.device.type == "cpu" and zeros.is_contiguous() and not zeros.any()


def test_memory_is_taken_by_what_is_written() -> None:
    before = resident()
    if before is None:
        pytest.skip("the system does not tell what memory is of no file")
    zeros = lazy_zeros((256, 1 << 18), torch.float32)
    assert not zeros.any()
    after = resident()
    assert after is not None and after.anonymous - before.anonymous < zeros.nbytes / 8
    zeros[0] = 1
    assert zeros.sum() == 1 << 18
