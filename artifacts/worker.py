"""Work in a process of its own: how the process is started, and what is said of its end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# `python -m` and `python -c` look into the current folder first, whatever lies there. Nothing is imported before that
# folder is off the path; PYTHONSAFEPATH would do the same, from Python 3.11 on.
_START = """\
import sys
if sys.path[:1] == [""]: del sys.path[0]
sys.path[:0] = [folder for folder in {path!r} if folder not in sys.path]
from importlib import import_module
module, _, function = sys.argv.pop(1).partition(":")
getattr(import_module(module), function)()
"""

# What Windows ends a process with that it can give no memory: STATUS_NO_MEMORY and STATUS_COMMITMENT_LIMIT.
_NO_MEMORY = (0xC0000017, 0xC000012D)


def command(entry: str, *arguments: str) -> list[str]:
    """The command line that calls a function in a new interpreter, which imports what this one does.

    The current folder and the folder of a user's script are not looked into, unless PYTHONPATH names them.

    Args:
        entry: "module:function"; the function is called without arguments.
        arguments: its `sys.argv[1:]`.
    """
    return [sys.executable, "-c", _START.format(path=_search_path()), entry, *arguments]


def ending(status: int) -> str:
    """How a process ended, for a sentence: "ended with status 3", "was ended by signal 11 (SIGSEGV)".

    Args:
        status: as `subprocess.Popen.returncode` has it.
    """
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            return f"was ended by signal {-status}"
        return f"was ended by signal {-status} ({name}{'; out of memory?' if name == 'SIGKILL' else ''})"
    if status >= 1 << 31:  # an NTSTATUS
        return f"ended with status 0x{status:08X}{' (out of memory?)' if status in _NO_MEMORY else ''}"
    return f"ended with status {status}"


def _search_path() -> list[str]:
    """`sys.path`, without what Python put there for the user's own files."""
    # Where the top-level package of this module lies.
    root = str(Path(__file__).absolute().parents[__name__.count(".")])
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    users = {"" if script is None else os.path.dirname(os.path.realpath(script))}
    try:
        users.add(os.getcwd())
        folders = [os.path.abspath(entry) for entry in sys.path]
    except OSError:  # the current folder is gone
        folders = [entry for entry in sys.path if os.path.isabs(entry)]
    return [folder for folder in folders if folder == root or folder not in users]
