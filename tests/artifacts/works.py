"""Work for processes of their own, each kind made by a function."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time

from artifacts.errors import UsageError
from artifacts.worker_loop import Work, hear, tell

print("a library says hello")


def number() -> Work:
    """Answers with thousandths, one more for each job."""
    counted = itertools.count()
    return lambda line: {
        "device": "cpu", "types": {"fp32": {"errors": {"sample": next(counted) / 1000}}}
    }  # fmt: skip


def echo(*arguments: str) -> Work:
    """Tells the job, and answers with it and with its own arguments."""

    def work(line: str) -> object:
        print("a library says something", flush=True)
        os.write(1, b"so does another\n")
        assert sys.stdin.read() == ""  # A library that asks gets no job.
        tell(json.loads(line))
        return [json.loads(line), list(arguments)]

    return work


def beyond() -> Work:
    """Errors over every limit."""
    return lambda line: {
        "device": "cpu", "types": {"fp32": {"errors": {"sample": float("nan"), "other": 0.5}}}
    }  # fmt: skip


def narrow() -> Work:
    """Errors in bf16 alone; of the second job, in fp32 too."""
    wide = iter((1e-4, 0.5))
    return lambda line: {
        "device": "cpu",
        "types": {
            "fp32": {"errors": {"sample": next(wide)}},
            "bf16": {"errors": {"sample": float("inf")}, "noise": 0.03},
        },
    }


def fail() -> Work:
    """Raises, and goes on."""

    def work(line: str) -> object:
        raise UsageError("there is no such thing.", "See: latentc") if "usage" in line else ValueError("no")

    return work


def broken() -> Work:
    """Cannot be made."""
    raise ModuleNotFoundError("No module named 'vendor'")


def unspeakable() -> Work:
    """An answer that is no JSON."""
    return lambda line: object()


def end() -> Work:
    """Ends as the job says: by a signal, or with status 3."""

    def work(line: str) -> object:
        print("last words", file=sys.stderr, flush=True)
        if "signal" in (job := json.loads(line)):
            os.kill(os.getpid(), job["signal"])
        os._exit(3)

    return work


def sleep() -> Work:
    """Tells that it began, and never answers."""

    def work(line: str) -> object:
        tell("began")
        time.sleep(600)
        return None

    return work


def listen() -> Work:
    """Tells that it began, and answers with the first message."""
    heard = threading.Event()
    messages: list[object] = []

    def hearer(message: object) -> None:
        messages.append(message)
        heard.set()

    hear(hearer)

    def work(line: str) -> object:
        tell("began")
        return messages[0] if heard.wait(60) else None

    return work
