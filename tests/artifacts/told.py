"""A function for a process of its own: says what it was given, and where it imports from."""

from __future__ import annotations

import json
import random
import sys


def main() -> None:
    """Prints its arguments, then `sys.path`, an entry a line."""
    print(sys.argv[1:])
    print(*sys.path, sep="\n")
    assert json.loads(f"{random.randint(1, 1)}") == 1
