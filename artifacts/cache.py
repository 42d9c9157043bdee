"""Where this machine keeps what takes time to make again."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

CACHE = "LATENTC_CACHE"
"""A user's variable: the folder to use."""


def cache_dir() -> Path:
    """$LATENTC_CACHE, or "latentc" in the user's cache folder; need not be there.

    A user who has no home has a folder for this process alone.
    """
    if chosen := os.environ.get(CACHE):
        return Path(chosen)
    import platformdirs

    try:
        folder = platformdirs.user_cache_path("latentc", appauthor=False)
    except RuntimeError:
        return _temporary()
    return folder if folder.is_absolute() else _temporary()  # older versions leave "~" as it is


@functools.cache
def _temporary() -> Path:
    # Nobody else can have put something there, as into a folder of a known name.
    folder = tempfile.mkdtemp(prefix="latentc-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
