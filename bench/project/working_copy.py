"""A copy of a folder that is changed again and again, and made right again at the cost of what was changed."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

_UNTOUCHED_NS = 10**18
"""The time of change (2001) that the copy's files are given: whatever is written later has another one, also where
two changes follow each other within one tick of the file system's clock."""


class WorkingCopy:
    """A copy, called `root`, in a folder that holds nothing else when a trial begins.

    Attributes:
        root: of the copy.
    """

    def __init__(self, original: Path, holder: Path) -> None:
        """Copies all files.

        Args:
            original: a folder of plain files.
            holder: of the copy; it need not be there.
        """
        self._original, self.root = original, holder / "root"
        self._folders = {Path(folder).relative_to(original) for folder, _, _ in os.walk(original)}
        self._files = [
            Path(folder).relative_to(original) / name
            for folder, _, names in os.walk(original)
            for name in names
        ]
        self._states: dict[Path, tuple[int, ...]] = {}
        self.restore()

    def restore(self) -> tuple[Path, ...]:
        """Removes what is new in the holder and copies again what is not as it was.

        Returns:
            The files that were copied, relative to `root`.
        """
        holder = self.root.parent
        holder.mkdir(parents=True, exist_ok=True)
        for path in holder.iterdir():
            if path != self.root or not _is_folder(path):
                _remove(path)
        self._remove_new()
        for folder in sorted(self._folders):
            (self.root / folder).mkdir(exist_ok=True)
        copied = tuple(file for file in self._files if self._state(file) != self._states.get(file, ()))
        for file in copied:
            self._copy(file)
        return copied

    def _remove_new(self) -> None:
        """Removes what the original has not, or has as something else."""
        if not self.root.exists():
            return
        files = set(self._files)
        for folder, folders, names in os.walk(self.root):
            at = Path(folder).relative_to(self.root)
            for name in [*folders, *names]:
                path = Path(folder, name)
                kept = at / name in self._folders if _is_folder(path) else at / name in files
                if not kept:
                    _remove(path)
                    if name in folders:
                        folders.remove(name)

    def _copy(self, file: Path) -> None:
        place = self.root / file
        if place.is_symlink() or (place.exists() and place.stat().st_nlink > 1):
            place.unlink()  # What is written must not go through to another file.
        shutil.copyfile(self._original / file, place)
        shutil.copymode(self._original / file, place)
        os.utime(place, ns=(_UNTOUCHED_NS, _UNTOUCHED_NS))
        state = self._state(file)
        assert state is not None
        self._states[file] = state

    def _state(self, file: Path) -> tuple[int, ...] | None:
        try:
            info = os.lstat(self.root / file)
        except OSError:
            return None
        return info.st_ino, info.st_nlink, info.st_mode, info.st_size, info.st_mtime_ns


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink()
