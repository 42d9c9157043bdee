"""The server's log: one JSON object a line, on standard error."""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""Of the request that is being answered; empty outside of one."""


def log(level: str, event: str, **fields: Any) -> None:
    """Writes one line.

    Args:
        level: "info", "warning", "error" or "critical".
        event: what happened, a word.
    """
    line: dict[str, Any] = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "level": level,
        "event": event,
    }
    if request_id.get():
        line["request_id"] = request_id.get()
    # Nobody reads it, or the disk is full: pictures are drawn all the same.
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(json.dumps(line | fields), file=sys.stderr, flush=True)


def base_url(host: str, port: int) -> str:
    """Where a server that listens at a name or an address is found."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class LogHandler(logging.Handler):
    """Writes what libraries log as lines of this log."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging`."""
        fields = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["trace"] = logging.Formatter().formatException(record.exc_info)
        log(record.levelname.lower(), "library", **fields)


@contextlib.contextmanager
def libraries_logged() -> Iterator[None]:
    """While it is open, what any library logs or warns of is lines of this log."""
    handler, root = LogHandler(logging.WARNING), logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
