"""Names of files inside an artifact: which may be there at all, and what is really in a folder.

An artifact made on one system is opened on another, so a name must mean the same file on all of them.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

MAX_LENGTH = 1024
"""Longest path relative to the artifact, in bytes of UTF-8."""
MAX_SEGMENTS = 32
"""Folders in each other, the file's own name among them. What is compared of paths are all their beginnings."""

# Windows opens a device under these names, whatever folder and extension they are given.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE)

# Written into any folder that a person browses, by the system's own file manager; no model parser opens them.
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


def fault(path: str) -> str:
    """Why `path` may not name a file inside an artifact; empty when it may.

    It may when it is relative, has forward slashes only, stays below its root, and is one and the same name
    on Linux, macOS and Windows.
    """
    try:
        length = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not path:
        return "is empty"
    if length > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} bytes"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in path):
        return "holds a control character"
    if "\\" in path:
        return "holds a backslash"
    if path.startswith("/"):
        return "is absolute"
    if re.match(r"[A-Za-z]:", path):
        return "names a drive"
    segments = path.split("/")
    if len(segments) > MAX_SEGMENTS:
        return f"has more than {MAX_SEGMENTS} segments"
    for segment in segments:
        if segment in ("", ".", ".."):
            return f"holds the segment {segment!r}"
        if bad := sorted(set(segment) & set(':*?"<>|')):
            return f"holds {bad[0]!r}, which Windows does not allow"
        if segment[-1] in ". ":
            return "has a segment that ends with a dot or a space, which Windows drops"
        if _DEVICE.fullmatch(segment.split(".")[0].rstrip()):
            return f"has the segment {segment!r}, a device on Windows"
    return ""


def clashes(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of `paths` that name one file, or a file and a folder, on some system.

    So two equal paths, two that differ only in case or in Unicode form (also of a folder), and a file that
    another path uses as a folder. The second of each pair is the later one.
    """
    spelled: dict[str, str] = {}
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        segments = path.split("/")
        # Folded segment by segment: a slash composes with nothing.
        prefixes = list(accumulate(segments, _below))
        folded = list(accumulate(map(_folded, segments), _below))
        other = files.get(folded[-1]) or folders.get(folded[-1])
        for prefix, key in zip(prefixes[:-1], folded[:-1], strict=True):
            other = other or files.get(key)
            if spelled.get(key, prefix) != prefix:
                other = other or folders.get(key)
        if other is not None:
            yield other, path
        files.setdefault(folded[-1], path)
        for prefix, key in zip(prefixes[:-1], folded[:-1], strict=True):
            spelled.setdefault(key, prefix)
            folders.setdefault(key, path)


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}"


def _folded(name: str) -> str:
    """What two names have in common that some system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def shown(path: str) -> str:
    """`path` for a message: quoted, with what a terminal would act on escaped."""
    return f"'{path}'" if path.isprintable() else ascii(path)


def is_link(info: os.stat_result) -> bool:
    """Whether an `os.lstat` result is of a symbolic link, or of a Windows junction or other reparse point."""
    return stat.S_ISLNK(info.st_mode) or bool(getattr(info, "st_reparse_tag", 0))


def entries(root: Path) -> dict[str, os.stat_result]:
    """What lies below `root`, not following links: path with forward slashes -> `os.lstat`, sorted.

    Folders are walked and not listed; links to folders are listed and not walked.

    Raises:
        OSError: a folder cannot be read.
    """
    infos: dict[str, os.stat_result] = {}
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        for name in os.listdir(folder):
            # lstat, not DirEntry.stat: on Windows the latter has neither inode nor link count.
            info = os.lstat(folder / name)
            if stat.S_ISDIR(info.st_mode) and not is_link(info):
                pending.append((folder / name, f"{prefix}{name}/"))
            else:
                infos[prefix + name] = info
    return dict(sorted(infos.items()))
