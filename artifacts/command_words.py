"""What is put into a command of a hint, so that the command can be typed as it is printed."""

from __future__ import annotations

import os
import re
import shlex

_PLAIN = re.compile(r"[\w@%+=:,./\\-]+", re.ASCII)


def quoted(word: object) -> str:
    """A path or another text as one word of a command: in quotes where the system's shell would take it apart.

    POSIX shells take single quotes, Windows' double ones.
    """
    text = str(word)
    if os.name != "nt":
        return shlex.quote(text)
    return text if _PLAIN.fullmatch(text) else '"{}"'.format(text.replace('"', '\\"'))
