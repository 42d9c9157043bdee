"""Files that a user names, read whole: never more than fits, and never waiting for who may not come."""

from __future__ import annotations

import difflib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from artifacts.command_words import quoted

MOST = 64 << 20
"""Bytes of a file of prompts, keys, figures or recipes. A device such as /dev/zero has no end."""


def may_not_end(path: Path) -> str:
    """Why who reads this path by itself may wait for ever: "is a device", "is a named pipe"; empty where nothing is.

    Raises:
        OSError: as the system says.
    """
    mode = path.stat().st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "is a device"
    # A shell's <(command) is no file of this name, and its writer is there.
    return "is a named pipe" if stat.S_ISFIFO(mode) and os.path.exists(os.path.realpath(path)) else ""


def no_file(option: str, path: Path) -> tuple[str, str]:
    """What to say of a file that an option names and that is not there, and what to do: mostly it is another name."""
    message = f"{option}: there is no file {path}."
    try:
        names = sorted(entry.name for entry in os.scandir(path.parent) if entry.is_file())
    except OSError:
        return message, f"There is no folder {path.parent} to read it from: name another file."
    near = difflib.get_close_matches(path.name, names, n=1)
    alike = near or [name for name in names if name.endswith(path.suffix)][:3]
    if near or (path.suffix and alike):
        return message, f"Name one that is there: {' or '.join(quoted(path.parent / name) for name in alike)}"
    return message, f"Name one that is there: {option} FILE"


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """All that the file holds; of a pipe, what its writers write. One that nobody writes to is empty.

    Raises:
        OSError: as the system says, or it holds more than `most` bytes (EFBIG).
    """
    flags = os.O_RDONLY
    for name in ("O_BINARY", "O_NONBLOCK", "O_CLOEXEC", "O_NOINHERIT"):
        flags |= getattr(os, name, 0)
    with os.fdopen(os.open(path, flags), "rb") as stream:
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(stream.fileno(), True)
        return read_all(stream, str(path), most)


def read_all(stream: BinaryIO, name: str, most: int = MOST) -> bytes:
    """What a stream that blocks gives until its end; raises OSError (EFBIG) as `read_bytes`."""
    data = stream.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it holds more than {most} bytes", name)
    return data


def read_text(path: Path, most: int = MOST) -> str:
    """The same as text in UTF-8, without a byte order mark, its lines ended by "\\n".

    Raises:
        OSError: as `read_bytes`; UnicodeDecodeError: it is not UTF-8.
    """
    text = read_bytes(path, most).decode("utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")
