"""The files of a folder, read whole: of a model as it was found, or of an artifact as it was verified."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from artifacts.errors import LatentcError

MAX_READ = 128 << 20
"""Bytes. Configurations, vocabularies and residual tensors are read whole; the largest have some 40 million."""


class Contents(Protocol):
    """Files by their paths relative to a root, with forward slashes."""

    @property
    def verified(self) -> bool:
        """Whether the files are an artifact's, whose compiler has left out what is not data."""

    def shown(self, path: str) -> str:
        """The file's name for an error."""

    def names(self, folder: str) -> tuple[str, ...]:
        """The files below `folder`, in its folders too, sorted; none where there is no such folder."""

    def read(self, path: str) -> bytes:
        """The whole of one file.

        Raises:
            LatentcError: there is no such file, it is not a regular file, cannot be read, has more than `MAX_READ`
                bytes, or is not what was verified.
        """


class Folder:
    """A folder as it is now, links followed: the hub's cache is made of them."""

    verified = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def shown(self, path: str) -> str:
        """See `Contents`."""
        return str(self._root / path)

    def names(self, folder: str) -> tuple[str, ...]:
        """See `Contents`."""
        paths = (self._root / folder).rglob("*")
        return tuple(sorted(p.relative_to(self._root).as_posix() for p in paths if p.is_file()))

    def read(self, path: str) -> bytes:
        """See `Contents`."""
        file = self._root / PurePosixPath(path)
        try:
            # NONBLOCK: opening a FIFO must not wait for a writer.
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            with os.fdopen(os.open(file, flags), "rb") as stream:
                info = os.fstat(stream.fileno())
                if not stat.S_ISREG(info.st_mode):
                    raise LatentcError(f"{file} is not a regular file.")
                if info.st_size > MAX_READ:
                    raise LatentcError(f"{file} has {info.st_size} bytes; at most {MAX_READ} are read.")
                data = stream.read(MAX_READ)
        except OSError as error:
            raise LatentcError(f"{file} cannot be read: {error.strerror or error}.") from error
        check_not_pointer(data, file)
        return data


def check_not_pointer(data: bytes, file: Path) -> None:
    """Raises LatentcError where a file holds the name of its content, as a clone without git-lfs leaves it.

    Args:
        data: how the file begins.
    """
    if data.startswith(b"version https://git-lfs"):
        raise LatentcError(
            f"{file} is a pointer of git-lfs and not the file itself.",
            "Fetch what it stands for, in the model's folder: git lfs install && git lfs pull",
        )


class Overlay:
    """Other files with some in the places of theirs."""

    def __init__(
        self, base: Contents, files: Mapping[str, bytes], folders: Mapping[str, Path] | None = None
    ) -> None:
        """
        Args:
            base: what the rest is read from.
            files: path -> content.
            folders: folder -> the folder on disk that stands for it.
        """
        self._base, self._files = base, dict(files)
        self._folders = {name: Folder(path) for name, path in (folders or {}).items()}

    @property
    def verified(self) -> bool:
        """See `Contents`."""
        return self._base.verified

    def shown(self, path: str) -> str:
        """See `Contents`."""
        top, _, rest = path.partition("/")
        return self._folders[top].shown(rest) if top in self._folders else self._base.shown(path)

    def names(self, folder: str) -> tuple[str, ...]:
        """See `Contents`."""
        own = {path for path in self._files if path.startswith(f"{folder}/")}
        if folder in self._folders:
            return tuple(sorted(own | {f"{folder}/{path}" for path in self._folders[folder].names(".")}))
        return tuple(sorted(own | set(self._base.names(folder))))

    def read(self, path: str) -> bytes:
        """See `Contents`."""
        if path in self._files:
            return self._files[path]
        top, _, rest = path.partition("/")
        return self._folders[top].read(rest) if top in self._folders else self._base.read(path)


def contents(root: Path | Contents) -> Contents:
    """The files of a folder, or what is such files already."""
    return Folder(root) if isinstance(root, Path) else root
