"""Where vendors keep what they make of an artifact's graphs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from artifacts.manifest import GraphRecord, Manifest


class GraphCaches:
    """A folder for each content and type: vendors know blobs by path, and an artifact can be replaced."""

    def __init__(self, cache: Path | None, manifest: Manifest) -> None:
        """
        Args:
            cache: the folder of all of them; None for nowhere.
        """
        self._cache = cache
        self._manifest = manifest

    def folder(self, record: GraphRecord, compute: str) -> Path | None:
        """The folder of a graph that is computed in the type; None where there is none that can be written."""
        if self._cache is None:
            return None
        digest = hashlib.sha256()
        for file in sorted(self._manifest.files, key=lambda f: f.path):
            if file.path.startswith(record.folder + "/"):
                digest.update(f"{file.path} {file.sha256}\n".encode())
        digest.update(compute.encode())
        folder = self._cache / self._manifest.target / digest.hexdigest()[:32]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None  # A home folder that cannot be written costs time, not function.
        return folder
