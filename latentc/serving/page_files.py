"""The page's folder: what browsers send for a request, and the pictures that they show."""

from __future__ import annotations

import secrets
import tempfile
from collections import deque
from pathlib import Path

KEPT_BYTES = 256_000_000
"""Of finished pictures; the oldest go first."""


class PageFiles:
    """A folder of this process alone, removed at `close`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="latentc-page-", ignore_cleanup_errors=True)
        # As it is named by whoever asks what it really is.
        self.folder = Path(self._folder.name).resolve()
        self._kept: deque[tuple[Path, int]] = deque()
        self._bytes = 0

    def write(self, data: bytes, name: str) -> Path:
        """Keeps a finished picture, and removes the oldest where there are too many.

        Args:
            name: of the file; its folder is one that nobody guesses.
        """
        file = self.folder / secrets.token_hex(16) / name
        file.parent.mkdir()
        file.write_bytes(data)
        self._kept.append((file, len(data)))
        self._bytes += len(data)
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            old, size = self._kept.popleft()
            self._bytes -= size
            old.unlink(missing_ok=True)
            old.parent.rmdir()
        return file

    def holds(self, path: str) -> bool:
        """Whether a path leads into the folder, and is no address."""
        try:
            return Path(path).resolve().is_relative_to(self.folder)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """Removes the folder."""
        self._folder.cleanup()
