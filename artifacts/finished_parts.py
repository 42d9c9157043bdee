"""The work folder beside OUT: where everything lies in it, and the finished parts that a later run takes up.

.OUT.latentc-work/
    lock, owner.json        who is compiling
    build/KEY/files/        a part that is being built
    parts/KEY/part.json     a finished part: its files' hashes, and what its builder noted about it
    parts/KEY/files/
    journal.json            where in stage/ the parts' files go, written before the first one moves
    stage/                  the future OUT
    old/                    the previous OUT, between the two renames that replace it
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from artifacts import artifact_paths, strict_json
from artifacts.disk import remove_tree, write_synced
from artifacts.errors import LatentcError
from artifacts.hashing import file_record, is_sha256
from artifacts.manifest import FileRecord
from artifacts.progress import Progress
from artifacts.strict_record import Record

# 128 bits of the key name its folder: with all of it, Windows' 260 characters of path are soon used up.
_NAME_LENGTH = 32


# Bytes of a name that leave room for what is put around it: file systems take names of 255.
_MOST_BYTES = 200


def short_name(name: str) -> str:
    """`name`, or what stands for a long one: its beginning, and a hash of all of it."""
    data = os.fsencode(name)
    if len(data) <= _MOST_BYTES:
        return name
    return f"{os.fsdecode(data[: _MOST_BYTES // 2])}-{hashlib.sha256(data).hexdigest()[:16]}"


@dataclass(frozen=True)
class Layout:
    """Where OUT and everything of its work folder lie."""

    out: Path

    @property
    def work(self) -> Path:
        return self.out.with_name(f".{short_name(self.out.name)}.latentc-work")

    @property
    def build(self) -> Path:
        return self.work / "build"

    @property
    def parts(self) -> Path:
        return self.work / "parts"

    @property
    def stage(self) -> Path:
        return self.work / "stage"

    @property
    def old(self) -> Path:
        return self.work / "old"

    @property
    def journal(self) -> Path:
        return self.work / "journal.json"

    def part(self, key: str) -> Path:
        """The home of the finished part `key`."""
        return self.parts / key[:_NAME_LENGTH]

    def building(self, key: str) -> Path:
        """The home of the part `key` while it is built."""
        return self.build / key[:_NAME_LENGTH]


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        key: its content key.
        folder: where its files are until they are published.
        files: relative to `folder`.
        meta: what its builder noted, as it reads back from JSON.
    """

    key: str
    folder: Path
    files: tuple[FileRecord, ...]
    meta: dict[str, Any]


class _PartFile(Record):
    key: str
    files: tuple[FileRecord, ...]
    meta: dict[str, Any]


def check_key(key: str) -> None:
    """Raises ValueError for a key that is not the hex of a SHA-256: it names a folder."""
    if not is_sha256(key):
        raise ValueError(f"not a content key: {key!r}")


def write_part(home: Path, key: str, files: tuple[FileRecord, ...], meta: Mapping[str, Any]) -> None:
    """Writes `part.json` into a part's home; it is the sign that the part is finished."""
    record = _PartFile(key=key, files=files, meta=dict(meta))
    write_synced(home / "part.json", record.model_dump_json().encode())


def read_part(home: Path) -> Part | None:
    """The part whose home this is; None when its `part.json` is missing or damaged."""
    path = home / "part.json"
    try:
        data = path.read_bytes()
        strict_json.loads(data, str(path))
        record = _PartFile.model_validate_json(data)
    except (OSError, LatentcError, ValidationError):
        return None
    if home.name != record.key[:_NAME_LENGTH] or any(
        artifact_paths.fault(file.path) for file in record.files
    ):
        return None
    return Part(record.key, home / "files", record.files, record.meta)


def is_whole(part: Part) -> bool:
    """Whether the part's folder holds its files and no others, each with its size; reads none of them."""
    if not part.folder.is_dir():
        return False
    entries = artifact_paths.entries(part.folder)
    return entries.keys() == {file.path for file in part.files} and all(
        not artifact_paths.is_link(entries[file.path]) and entries[file.path].st_size == file.size
        for file in part.files
    )


def is_same(part: Part, progress: Progress) -> bool:
    """Whether the part is whole and every file still has its SHA-256; reads them all once."""
    return is_whole(part) and all(
        file_record(part.folder, part.folder / file.path, progress) == file for file in part.files
    )


def drop_unfinished(layout: Layout) -> None:
    """Removes what an interrupted run left: parts that were being built, and parts that lost files."""
    remove_tree(layout.build)
    if layout.parts.is_dir():
        for home in layout.parts.iterdir():
            part = read_part(home)
            if part is None or not is_whole(part):
                remove_tree(home)


def has_parts(layout: Layout) -> bool:
    """Whether any finished part is kept."""
    return layout.parts.is_dir() and any(os.scandir(layout.parts))
