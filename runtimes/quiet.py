"""What libraries remark that a user can do nothing about."""

from __future__ import annotations

import logging
import os

from artifacts.serve import fetch_no_kernels


def quiet_libraries() -> None:
    """For commands, before they import: transformers and diffusers remark on what is not installed beside them.

    Who sets their variables hears them.
    """
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    fetch_no_kernels()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # and so does bitsandbytes, on those kernels
