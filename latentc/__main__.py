"""`python -m latentc`: the same as the `latentc` command."""

import os
import sys


def _leave_current_folder() -> None:
    """Takes off the path what `python -m` put there: no file of the current folder is ours.

    Unless this package itself lies there, and is found by nothing else.
    """
    try:
        current = os.getcwd()
    except OSError:  # it is gone
        current = ""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path[0] in ("", current) and current != ours and not getattr(sys.flags, "safe_path", False):
        del sys.path[0]


if __name__ == "__main__":
    _leave_current_folder()
    from latentc.cli import main

    main()
