"""The constants of a graph's file: where each is stored, so that some can be read, and others put in their places."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from artifacts.manifest import Built
from runtimes.sessions.session_contract import Session

if TYPE_CHECKING:
    import numpy as np

Replaced = Mapping[str, "np.ndarray"]
"""Name of a constant -> its bytes as the file stores them, uint8, as many as were there."""


@dataclass(frozen=True)
class StoredConstant:
    """One constant: `nbytes` bytes at `offset` of `file`, or `data` where it stands in the graph's file itself.

    Attributes:
        dtype: "float32", "float16", "bfloat16", "int8", "uint4", "nf4", ...
        shape: as the graph's file has it; the elements lie in C order, little endian, those of four bits two to a
            byte with the first in the low bits.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path | None = None
    offset: int = 0
    data: bytes = b""

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """The bytes, uint8[nbytes].

        Raises:
            OSError: the file cannot be read, or ends too early.
        """
        import numpy as np

        if self.file is None:
            return np.frombuffer(self.data, np.uint8)
        array = np.fromfile(self.file, np.uint8, self.nbytes, offset=self.offset)
        if array.nbytes != self.nbytes:
            raise OSError(f"{self.file} ends inside a constant")
        return array


@runtime_checkable
class TakesConstants(Protocol):
    """What a session factory offers, too, whose graphs can be opened with other constants than their files hold."""

    def constants(self, model_file: Path) -> Mapping[str, StoredConstant]:
        """The constants of a graph's file by name; no weight is read."""

    def open_with(
        self,
        model_file: Path,
        device: str,
        compute: str,
        constants: Replaced,
        built: Built | None = None,
    ) -> Session:
        """Opens one graph as `SessionFactory.open` does, with `constants` in the places of the file's own.

        The arrays are lent: they may not change until the session is closed.

        Raises:
            Refused: the vendor refused the graph on this device.
            LatentcError: no such device or constant, or the file is not the target's.
        """


def require_constants(constants: Replaced, sizes: Mapping[str, int], graph: str) -> None:
    """Raises LatentcError unless each replaced constant is one of the file's, of the same size.

    Args:
        sizes: name of a constant of the file -> its bytes.
    """
    from artifacts.errors import LatentcError

    for name, array in constants.items():
        size = sizes.get(name)
        if array.nbytes != size:
            fault = "has no constant" if size is None else f"has {size} bytes, not {array.nbytes}, of"
            raise LatentcError(f"{graph} {fault} '{name}'.", "Compile the model again, with --adaptable.")
