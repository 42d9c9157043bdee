"""Arrays that lie in files: parts of them, what was not written, and a disk that is full."""

from __future__ import annotations

import errno

import ml_dtypes
import numpy as np
import pytest

from artifacts.errors import LatentcError
from runtimes.file_array import FileArray

SHAPE = (1, 3, 7, 5)


@pytest.mark.parametrize("rows", [slice(0, 7), slice(2, 5), slice(None)])
@pytest.mark.parametrize("columns", [slice(0, 5), slice(1, 4), slice(None)])
def test_parts_are_those_of_an_array(rows: slice, columns: slice) -> None:
    expected = np.zeros(SHAPE, np.float32)
    array = FileArray(SHAPE, expected.dtype)
    assert array.nbytes == expected.nbytes
    part = np.random.default_rng(0).standard_normal(expected[..., rows, columns].shape, np.float32)
    expected[..., rows, columns] = part
    array[..., rows, columns] = part
    np.testing.assert_array_equal(array[..., :, :], expected)
    np.testing.assert_array_equal(array[..., rows, columns], part)
    for number in range(3):
        np.testing.assert_array_equal(array.map(number), expected[0, number])


def test_arrays_of_bf16() -> None:
    array = FileArray(SHAPE, np.dtype(ml_dtypes.bfloat16))
    part = np.full((1, 3, 7, 2), 1.5, ml_dtypes.bfloat16)
    array[..., :, 1:3] = part
    np.testing.assert_array_equal(array[..., :, 1:3], part)
    assert array.map(0)[0].tolist() == [0, 1.5, 1.5, 0, 0]


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, place: int) -> None:
            """Anywhere."""

        def write(self, data: np.ndarray) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    array = FileArray(SHAPE, np.dtype(np.float32))
    monkeypatch.setattr(array, "_file", Full())
    with pytest.raises(LatentcError, match="No space left on device") as caught:
        array[..., :, :] = np.zeros(SHAPE, np.float32)
    assert "TMPDIR" in str(caught.value.hint)
