"""What the system refuses, as a message: the one place where errors that are no bugs become a `LatentcError`.

Disks fill, files may not be written, descriptors and memory end. Each can happen at any call, and nothing at that call
knows more than this place does.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from artifacts.disk import free_bytes, is_full
from artifacts.error_text import causes, one_line
from artifacts.errors import LatentcError
from artifacts.units import size

KINDS = (OSError, MemoryError, RuntimeError)
"""Of what `message` looks at. Most errors of these kinds that have no number of the system's are bugs, and stay so."""

_ROOM = 1 << 20
"""Bytes: a disk with fewer is the one that was full."""

_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_DESCRIPTOR_WORDS = "too many open files"
_THREAD_WORDS = "can't start new thread"
_TEMPORARY_WORDS = "no usable temporary directory"
_TEMPORARY_NAMES = ("tmp", "latentc-")

_PERMISSION = "Use a folder that you may write to, or change who may."
_NAMES = "Name another file or folder."
# The system's number -> what to do about it.
_HINTS = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "That disk is read-only: name a place on another one.",
    errno.EIO: "That disk, or its connection, is failing: look at the system's log, and use another one.",
    errno.ENAMETOOLONG: "Name something shorter.",
    errno.ENOTDIR: _NAMES,
    errno.EISDIR: _NAMES,
    errno.ENOENT: "Look whether it is there, and run the command again.",
    errno.EEXIST: _NAMES,
    errno.ELOOP: "A link there leads to itself.",
    errno.EBUSY: "Close whatever uses it and run the command again.",
    errno.EFBIG: "That disk takes no file of this size: name a place on another one.",
    errno.ENOMEM: "Close other programs, or use a machine with more memory.",
    errno.ESTALE: "That network disk was connected anew: run the command again.",
}


@contextmanager
def foreseen() -> Iterator[None]:
    """While it is open, errors of the system (a full disk, no memory) become `LatentcError`."""
    try:
        yield
    except KINDS as error:
        if (translated := message(error)) is None:
            raise
        raise translated from error


def message(error: BaseException, places: Iterable[Path] = ()) -> LatentcError | None:
    """The message for an error of the system, or of who passes one on in its own words; None for any other.

    Args:
        places: folders that were written to. Where the error names no file, and a disk is full, it is one of theirs or
            the temporary folder's.
    """
    if isinstance(error, (LatentcError, BrokenPipeError)):
        return None
    if (used_up := exhausted(error, places)) is not None:
        return used_up
    if isinstance(error, OSError) and error.errno is not None:
        return _refused(error)
    return None


def exhausted(error: BaseException, places: Iterable[Path] = ()) -> LatentcError | None:
    """As `message`, of what the system has no more of: room on a disk, descriptors, memory, threads.

    For who puts other errors, a file that is missing among them, into words of its own.
    """
    links = list(causes(error))
    if is_full(error):
        return _full(links, places)
    if any(_says(link, _DESCRIPTORS, (_DESCRIPTOR_WORDS,)) for link in links):
        return LatentcError(
            f"too many files are open: the system allows {_descriptors()} to one process.",
            "Allow more and run the command again: ulimit -n 4096",
        )
    if any(isinstance(link, MemoryError) for link in links):
        return LatentcError(
            f"there is not enough memory{_detail(error)}.",
            "Close other programs, draw or compile smaller sizes and batches, or use a machine with more memory.",
        )
    if isinstance(error, RuntimeError) and _THREAD_WORDS in str(error):
        return LatentcError(
            "the system allows this user no more threads or processes.",
            "End other programs, or allow more: ulimit -u, ulimit -v",
        )
    return None


def _says(error: BaseException, numbers: frozenset[int], words: Iterable[str]) -> bool:
    if isinstance(error, OSError) and error.errno in numbers:
        return True
    return isinstance(error, Exception) and any(text in str(error).lower() for text in words)


def _full(links: Iterable[BaseException], places: Iterable[Path]) -> LatentcError:
    named = [Path(file) for link in links if (file := written_file(link))]
    folder = named[0].parent if named else full_folder(places)
    if folder is None:
        return LatentcError("a disk is full.", "Free some space and run the command again.")
    return full_disk(folder)


def full_disk(folder: Path, needed: str = "") -> LatentcError:
    """The message for a full disk, the temporary folder's said to be that.

    Args:
        needed: how much does not fit, if that is known ("1.2 GB").
    """
    is_temporary = _is_temporary(folder)
    free = f"{size(free_bytes(folder))} free"
    return LatentcError(
        f"the disk of {'the temporary folder ' if is_temporary else ''}{folder} is full: "
        f"{f'{needed} needed, ' if needed else ''}{free}.",
        "Free some space, or set TMPDIR (on Windows TEMP) to a folder on another disk."
        if is_temporary
        else "Free some space and run the command again, or name a place on another disk.",
    )


def full_folder(places: Iterable[Path]) -> Path | None:
    """The first of `places`, or else the temporary folder, whose disk is full; None where none is now."""
    candidates: list[Path] = [*places]
    if (temporary := _temporary()) is not None:
        candidates.append(temporary)
    for place in candidates:
        with suppress(OSError):
            if free_bytes(place) < _ROOM:
                return place
    return None


def _refused(error: OSError) -> LatentcError:
    reason = error.strerror or str(error)
    if _TEMPORARY_WORDS in reason.lower():
        return LatentcError(
            f"there is no temporary folder that can be written: {reason}.",
            "Set TMPDIR (on Windows TEMP) to a folder that you may write to, on a disk that has room.",
        )
    file = _file(error)
    if not file:
        return LatentcError(f"the system refused what the command needs: {reason}.", _hint(error))
    other = error.filename2 if isinstance(error.filename2, (str, bytes)) else ""
    where = f"{file}{f' -> {os.fsdecode(other)}' if other else ''}"
    temporary = "the temporary file " if _is_temporary(Path(file)) else ""
    return LatentcError(f"{temporary}{where} cannot be used: {reason}.", _hint(error))


def _hint(error: OSError) -> str:
    return _HINTS.get(error.errno or 0, "")


def _file(error: BaseException) -> str:
    file: Any = getattr(error, "filename", None)
    return os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else ""


def written_file(error: BaseException) -> str:
    """The file that an error is about, of those that were written: a copy names what it reads first. Empty for none."""
    other: Any = getattr(error, "filename2", None)
    return os.fsdecode(other) if isinstance(other, (str, bytes, os.PathLike)) else _file(error)


def _temporary() -> Path | None:
    folder: Path | None = None
    with suppress(OSError):  # there is none
        folder = Path(tempfile.gettempdir())
    return folder


def _is_temporary(path: Path) -> bool:
    """Whether a path is the temporary folder, or what a library makes there; a user's own files may lie there, too."""
    folder = _temporary()
    if folder is None or not path.is_relative_to(folder):
        return False
    own = folder.name.startswith("latentc-")  # a command's, where nobody else's files are
    return own or path == folder or path.relative_to(folder).parts[0].startswith(_TEMPORARY_NAMES)


def _descriptors() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return "no more"
    return str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _detail(error: BaseException) -> str:
    return f": {one_line(error)}" if str(error).strip() else ""
