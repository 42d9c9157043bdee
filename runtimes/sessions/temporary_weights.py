"""A folder for weights that a process makes for itself, gone when nothing has it open."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from filelock import FileLock

from artifacts import temporary


class TemporaryWeights:
    """A temporary folder whose files sessions map.

    Attributes:
        folder: removed by `remove`, with this object or at the process's end, whichever is first; where the process
            was killed, by the next one. A fork of the process removes nothing.
    """

    def __init__(self) -> None:
        """
        Raises:
            OSError: no temporary folder can be made.
        """
        self.folder, self._lock = temporary.locked_folder()
        self._owner = os.getpid()
        weakref.finalize(self, _remove, self.folder, self._lock, self._owner)

    def remove(self) -> None:
        """Removes what can be removed: Windows keeps files that are mapped, for a later call."""
        _remove(self.folder, self._lock, self._owner)


def _remove(folder: Path, lock: FileLock, owner: int) -> None:
    if os.getpid() == owner:
        temporary.remove(folder, lock)
