"""What libraries remark that a user can do nothing about."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from artifacts.worker_loop import fetch_no_kernels


def quiet_libraries() -> None:
    """For commands, before they import: transformers and diffusers remark on what is not installed beside them.

    Who sets their variables hears them.
    """
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    fetch_no_kernels()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # and so does bitsandbytes, on those kernels


@contextmanager
def quiet(*libraries: str, level: int = logging.ERROR) -> Iterator[None]:
    """Without Python's warnings, and without what the named libraries log below `level`."""
    loggers = [logging.getLogger(name) for name in libraries]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
