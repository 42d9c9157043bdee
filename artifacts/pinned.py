"""A verified artifact's files, held to what they were: one that changes later is an error, and never half of two."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from artifacts import artifact_paths
from artifacts.command_words import quoted
from artifacts.contents import MAX_READ
from artifacts.errors import LatentcError
from artifacts.manifest import FileRecord
from artifacts.manifest_reading import open_regular
from artifacts.verification import Artifact, file_fault, kind_fault
from artifacts.verified_before import identity, numbers, numbers_of


class Pinned:
    """The files of an artifact after `open_artifact`, through which all of it is read.

    Small files are read whole and hashed as they are read. Graphs and weights are opened by vendors, by path: before
    and after, `check` compares what the system says of each file (device, number, size, times of change) with what it
    said when the file was hashed. What differs is hashed again; other content is an error.

    Safe to use from several threads.
    """

    verified = True

    def __init__(self, artifact: Artifact) -> None:
        # Links above the artifact are followed once: one that is turned to another artifact later changes nothing.
        self.root = Path(os.path.realpath(artifact.root))
        self._records: Mapping[str, FileRecord] = {file.path: file for file in artifact.manifest.files}
        self._states = {path: numbers_of(state) for path, state in artifact.states.items()}
        self._names: dict[str, tuple[str, ...]] = {}
        self._paths: dict[str, tuple[tuple[str, str], ...]] = {}
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(record.size for record in self._records.values())

    def shown(self, path: str) -> str:
        """See `artifacts.contents.Contents`."""
        return str(self.root / path)

    def names(self, folder: str) -> tuple[str, ...]:
        """The listed files of `folder`; see `artifacts.contents.Contents`."""
        if folder not in self._names:  # Asked for at each run of a graph.
            self._names[folder] = tuple(sorted(p for p in self._records if p.startswith(f"{folder}/")))
        return self._names[folder]

    def read(self, path: str) -> bytes:
        """The whole of one listed file, with the SHA-256 of the manifest; see `artifacts.contents.Contents`."""
        record = self._records.get(path)
        if record is None:
            raise LatentcError(f"{self.root / path} is not listed in the manifest.")
        if record.size > MAX_READ:
            raise LatentcError(f"{self.root / path} has {record.size} bytes; at most {MAX_READ} are read.")
        try:
            info = os.lstat(self.root / path)
            if fault := kind_fault(info):
                raise self._changed(path, fault)
            with open_regular(self.root / path, info) as stream:
                data = _whole(stream, record.size)
        except OSError as error:
            raise self._changed(path, f"cannot be read: {error.strerror or error}") from error
        if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
            raise self._changed(path, "its content is another")
        return data

    def check(self, folder: str, replaced: bool = False) -> None:
        """Whether the listed files of `folder` still are what was verified.

        Args:
            replaced: let a file pass whose name another file has taken, or nothing: a vendor that has the file open
                reads the one that was verified.

        Raises:
            LatentcError: one is not.
        """
        if folder not in self._paths:  # Joining paths takes longer than asking the system.
            self._paths[folder] = tuple((path, f"{self.root}{os.sep}{path}") for path in self.names(folder))
        for path, file in self._paths[folder]:
            try:
                info = os.lstat(file)
            except OSError as error:
                if replaced and isinstance(error, FileNotFoundError):
                    continue
                raise self._changed(path, f"cannot be read: {error.strerror or error}") from error
            verified = self._states.get(path)
            now = numbers(info)
            if verified is not None and (now == verified or (replaced and now[:2] != verified[:2])):
                continue
            # Never asked of, touched, or copied over itself: what counts is what it holds.
            if fault := file_fault(self.root, self._records[path], info):
                raise self._changed(path, fault)
            with self._lock:
                self._states[path] = now

    def folders(self, folder: str) -> tuple[str, ...]:
        """What changes when the artifact, or this folder in it, is renamed: between two calls nothing was, if equal."""
        identities = []
        for place in (self.root, self.root / folder):
            with suppress(OSError):
                info = os.lstat(place)
                identities.append(f"{identity(info)} {info.st_ctime_ns}")
        return tuple(identities)

    def _changed(self, path: str, fault: str) -> LatentcError:
        return LatentcError(
            f"{self.root} has changed since it was loaded: {artifact_paths.shown(path)} {fault}.",
            f"Load the artifact again; if that fails, see: latentc verify {quoted(self.root)}",
        )


def _whole(stream: BinaryIO, size: int) -> bytes:
    """The content, or one byte more than `size` of it."""
    data = bytearray()
    while len(data) <= size and (chunk := stream.read(size + 1 - len(data))):
        data += chunk
    return bytes(data)
