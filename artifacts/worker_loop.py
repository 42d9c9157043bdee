"""The other side of `artifacts.worker`: what runs in a process of its own.

A job comes in as one line of JSON on standard input. What comes out, on what was standard output, are lines of JSON
too: {"event": ...}, as many as the work tells, and last {"answer": ...} or {"failure": ...}. A line that begins with
`MESSAGE` is no job but a message to the work under way, which may ask for them by `hear`. The standard library only:
the environments of other projects run this file too.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any

Work = Callable[[str], Any]
"""One job, a line of JSON, becomes its answer, which JSON can hold. What it raises is the failure of this job."""

MESSAGE = "!"
"""What no JSON begins with."""

_lock = threading.Lock()
_answers: IO[str] | None = None
_hearer: Callable[[Any], None] | None = None


def main() -> None:
    """Serves what `sys.argv` names: "module:function", which makes the work, and the function's arguments."""
    from artifacts import garbage  # of this project's processes alone

    garbage.collect_rarely()
    entry, *arguments = sys.argv[1:]
    module, _, function = entry.partition(":")
    serve(lambda: getattr(import_module(module), function)(*arguments))


def fetch_no_kernels() -> None:
    """bitsandbytes, which peft and diffusers import, fetches native code with this package when it is imported."""
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]


def serve(make: Callable[[], Work]) -> None:
    """Answers jobs until standard input ends.

    Args:
        make: imports and makes what does the work; if it raises, that is the answer to every job.
    """
    global _answers
    fetch_no_kernels()
    # A Ctrl-C reaches this process too; the process that asks answers it, and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print to standard output now and then, and may read standard input: both are ours alone.
    lines = os.fdopen(os.dup(0), "r", encoding="utf-8")
    _answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    jobs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # A thread of its own: messages are heard while a job is under way.
    threading.Thread(target=_read, args=(lines, jobs), daemon=True).start()
    try:
        work = make()
    except Exception as error:
        broken = _failure(error)
        for _ in iter(jobs.get, None):
            _send({"failure": broken})
        return
    for line in iter(jobs.get, None):
        try:
            reply = {"answer": work(line)}
            json.dumps(reply)
        except Exception as error:  # whatever it is, the process that asked must say it
            reply = {"failure": _failure(error)}
        _send(reply)


def tell(event: Any) -> None:
    """Tells the process that asked how far the work is; from any thread."""
    _send({"event": event})


def hear(hearer: Callable[[Any], None]) -> None:
    """Has `hearer` called with each message of the process that asks, in another thread than the work's."""
    global _hearer
    _hearer = hearer


def _read(lines: IO[str], jobs: queue.SimpleQueue[str | None]) -> None:
    """Sorts what comes in, until it ends."""
    for line in lines:
        if not line.startswith(MESSAGE):
            jobs.put(line)
        elif _hearer is not None:
            _hearer(json.loads(line[len(MESSAGE) :]))
    jobs.put(None)


def _send(message: dict[str, Any]) -> None:
    assert _answers is not None, "nobody is served"
    try:
        with _lock:
            _answers.write(json.dumps(message) + "\n")
            _answers.flush()
    except OSError:
        os._exit(1)  # Nobody reads any more, so there is nobody to work for.


def _failure(error: Exception) -> dict[str, Any]:
    """A `LatentcError` as it is, by its attributes; any other with its traceback."""
    message = getattr(error, "message", None)
    expected = isinstance(message, str) and isinstance(getattr(error, "exit_code", None), int)
    return {
        "message": message if expected else f"{type(error).__name__}: {error}",
        "hint": getattr(error, "hint", "") if expected else "",
        "exit_code": getattr(error, "exit_code", 1) if expected else 1,
        "trace": "" if expected else traceback.format_exc(),
    }
