"""Arrays of maps that lie in temporary files, and are read and written in parts."""

from __future__ import annotations

import math
import tempfile
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from artifacts.temporary import no_room

if TYPE_CHECKING:
    import numpy as np

Window = tuple[EllipsisType, slice, slice]
"""Rows and columns of all maps of an array, without a step."""


class FileArray:
    """An array [.., height, width] in a file, which is gone when the object is.

    It is not mapped: under a limit on memory a mapped file's pages are written out one by one as they are needed, far
    slower than what is written in pieces. Whole rows are the quick ones.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """
        Raises:
            LatentcError: no temporary file can be written.
        """
        self.shape, self.dtype = shape, dtype
        self._maps = math.prod(shape[:-2])
        try:
            self._file: Any = tempfile.TemporaryFile()  # noqa: SIM115  closed with this object
        except OSError as error:
            raise no_room(tempfile.gettempdir(), error) from error

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, window: Window) -> np.ndarray:
        """A copy of the rows and columns of all maps."""
        import numpy as np

        (top, bottom), (left, right) = self._spans(window)
        part = np.empty((self._maps, bottom - top, right - left), self.dtype)
        rows = np.empty((bottom - top, self.shape[-1]), self.dtype)
        for number in range(self._maps):
            into = part[number] if right - left == self.shape[-1] else rows
            self._read(number, top, into)
            if into is rows:
                part[number] = rows[:, left:right]
        return part.reshape(*self.shape[:-2], *part.shape[1:])

    def __setitem__(self, window: Window, part: np.ndarray) -> None:
        (top, bottom), (left, right) = self._spans(window)
        maps = part.reshape(self._maps, bottom - top, right - left)
        try:
            for number in range(self._maps):
                if right - left == self.shape[-1]:
                    self._file.seek(self._place(number, top))
                    self._file.write(_bytes(maps[number]))
                    continue
                for row in range(bottom - top):
                    self._file.seek(self._place(number, top + row) + left * self.dtype.itemsize)
                    self._file.write(_bytes(maps[number, row]))
            self._file.flush()
        except OSError as error:
            raise no_room(tempfile.gettempdir(), error) from error

    def map(self, number: int) -> np.ndarray:
        """A copy of one of the maps, counted through all dimensions before them."""
        import numpy as np

        whole = np.empty(self.shape[-2:], self.dtype)
        self._read(number, 0, whole)
        return whole

    def _read(self, number: int, top: int, into: np.ndarray) -> None:
        self._file.seek(self._place(number, top))
        count = self._file.readinto(_bytes(into))
        _bytes(into)[count:] = 0  # Beyond what was written.

    def _place(self, number: int, row: int) -> int:
        return (number * self.shape[-2] + row) * self.shape[-1] * self.dtype.itemsize

    def _spans(self, window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
        _, rows, columns = window
        (top, bottom, _), (left, right, _) = (
            rows.indices(self.shape[-2]),
            columns.indices(self.shape[-1]),
        )
        return (top, bottom), (left, right)


def _bytes(array: np.ndarray) -> np.ndarray:
    """The array's bytes, its own where they lie together: files take no arrays of types that NumPy does not know."""
    import numpy as np

    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
