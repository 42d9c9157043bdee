"""Files that are code (a GPU's engines): which of them may be run here.

An artifact cannot say that of itself. It is what the user says (`trust`, or the environment variable), what a
signature covers by a key that the user named (`runtimes.pipeline.load` trusts it then), or what this user compiled on
this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from artifacts.cache import cache_dir
from artifacts.errors import LatentcError
from artifacts.hashing import is_sha256

TRUST = "LATENTC_TRUST_ENGINES"
"""A user's variable: 1 lets every engine run, in this process and in those that it starts."""

_trusted: set[str] = set()


def trust(digests: Iterable[str]) -> None:
    """For as long as this process runs, the files with these SHA-256 may be run: the user says so."""
    _trusted.update(digests)


def record_trusted(sha256: str) -> None:
    """The file with this SHA-256 was built here by this user, now.

    A cache folder that cannot be written does not remember it beyond this process.
    """
    _trusted.add(sha256)
    with suppress(OSError):
        _place(sha256).parent.mkdir(parents=True, exist_ok=True)
        _place(sha256).touch()


def is_trusted(sha256: str) -> bool:
    """Whether the file with this SHA-256 may be run."""
    if not is_sha256(sha256):
        return False
    return sha256 in _trusted or os.environ.get(TRUST) == "1" or _place(sha256).is_file()


def require_trusted(sha256: str, file: Path) -> None:
    """Raises LatentcError unless the file with this SHA-256 may be run; `file` is for the message."""
    if not is_trusted(sha256):
        raise LatentcError(
            f"{file} is an engine, and engines are code, which runs as you do. It was not built by you on this "
            "machine, so it is not loaded.",
            "If you trust whoever made it: --trust-engines, in Python latentc.load(..., trust_engines=True), or "
            f"{TRUST}=1; if they signed it: --require-signature PUBLIC.pem. Otherwise build it from its graph: "
            "latentc compile --rebuild ARTIFACT OUT",
        )


def _place(sha256: str) -> Path:
    return cache_dir() / "engines" / sha256
