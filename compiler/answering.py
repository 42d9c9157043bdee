"""Work that is done in a process of its own: a job goes in as a line of JSON, its answer comes out as another.

An answer is what the work returned, or {"failure": why}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from artifacts.worker import command, ending

Job = TypeVar("Job", bound=BaseModel)


def ask(entry: str, job: BaseModel) -> dict[str, Any]:
    """The answer to one job of the function `entry` ("module:function"), which calls `serve`."""
    ended = subprocess.run(
        command(entry),
        input=job.model_dump_json(),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    if ended.returncode:
        return {"failure": f"it {ending(ended.returncode)} before it answered"}
    return json.loads(ended.stdout)  # type: ignore[no-any-return]


def serve(kind: type[Job], work: Callable[[Job], Mapping[str, Any]]) -> None:
    """Answers jobs until standard input ends."""
    import logging
    import signal
    import warnings

    # A Ctrl-C reaches this process too; the compiler's process answers it, and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    # Libraries print to standard output now and then; the answers have a stream of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    for line in sys.stdin:
        job = kind.model_validate_json(line)
        try:
            answer = work(job)
        except Exception as error:  # whatever it is, the compiler's process must say it
            answer = {"failure": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
