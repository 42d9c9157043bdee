"""Work in a process of its own: jobs go in, answers come out, and its memory goes when it ends.

`Worker` is the side that asks, `artifacts.worker_loop` the one that answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel

from artifacts import worker_loop
from artifacts.errors import LatentcError

# `python -m` and `python -c` look into the current folder first, whatever lies there. Nothing is imported before that
# folder is off the path; PYTHONSAFEPATH would do the same, from Python 3.11 on.
_START = """\
import sys
if sys.path[:1] == [""]: del sys.path[0]
sys.path[:0] = [folder for folder in {path!r} if folder not in sys.path]
from importlib import import_module
module, _, function = sys.argv.pop(1).partition(":")
getattr(import_module(module), function)()
"""

# What Windows ends a process with that it can give no memory: STATUS_NO_MEMORY and STATUS_COMMITMENT_LIMIT.
_NO_MEMORY = (0xC0000017, 0xC000012D)


# Lines of what an ended process said last that are quoted.
_LAST_WORDS = 5


class WorkerError(LatentcError):
    """The work failed.

    Attributes:
        exit_code: 2 where the work found the request itself wrong.
        trace: the traceback of what was raised; empty for a `LatentcError`, and where the process ended.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = 1, trace: str = "") -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code
        self.trace = trace


class WorkerEnded(WorkerError):
    """The process ended before it answered.

    Attributes:
        out_of_memory: whether it ended as systems end a process that they have no memory for.
    """

    def __init__(
        self, message: str, hint: str = "", exit_code: int = 1, trace: str = "", out_of_memory: bool = False
    ) -> None:
        super().__init__(message, hint, exit_code, trace)
        self.out_of_memory = out_of_memory


class Worker:
    """A process that answers jobs, one after the other. As a context manager it is ended at the end.

    It starts at the first job. What it writes to its standard output and error is kept for when it ends unasked.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, patience: float = 0.0
    ) -> None:
        """
        Args:
            command: calls `artifacts.worker_loop.serve`; see `serving`.
            env: all variables of the process; None for ours.
            patience: seconds that the process has to end by itself.
        """
        self._command = list(command)
        self._env = None if env is None else dict(env)
        self._patience = patience
        self._process: subprocess.Popen[str] | None = None
        self._writing = threading.Lock()

    @property
    def pid(self) -> int:
        """Its process id; it is started unless it runs."""
        return self._started().pid

    def ask(
        self, job: BaseModel | Mapping[str, Any], on_event: Callable[[Any], None] = lambda event: None
    ) -> Any:
        """Sends one job and waits for its answer.

        Args:
            on_event: is given what the work tells meanwhile.

        Raises:
            WorkerError: the work raised it, or anything else.
            WorkerEnded: the process has ended.
        """
        process = self._started()
        assert process.stdout is not None
        line = job.model_dump_json() if isinstance(job, BaseModel) else json.dumps(dict(job))
        self._write(process, line)
        for reply in process.stdout:
            message = json.loads(reply)
            if "event" in message:
                on_event(message["event"])
            elif "failure" in message:
                raise WorkerError(**message["failure"])
            else:
                return message["answer"]
        status = process.wait()
        raise WorkerEnded(self._last_words(status), out_of_memory=ended_for_memory(status))

    def tell(self, message: Any) -> None:
        """Sends a message to the work under way (`artifacts.worker_loop.hear`), from any thread, where any runs."""
        if (process := self._process) is not None:
            self._write(process, worker_loop.MESSAGE + json.dumps(message))

    def kill(self) -> None:
        """Ends the process at once, from any thread; a job under way ends in `WorkerEnded`, and `close` is due."""
        if (process := self._process) is not None:
            process.kill()

    def close(self, wait: bool = True) -> None:
        """Ends the process; twice is harmless.

        Args:
            wait: give it its time to end by itself.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if not wait or not self._patience:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(timeout=self._patience or None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._said.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=error is None)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115
            # Not in a group of its own: a Ctrl-C in the terminal reaches both.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=self._env,
                text=True,
                encoding="utf-8",
            )
        return self._process

    def _write(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        # A process that has ended takes nothing; what it said last is still there to be read.
        with self._writing, contextlib.suppress(OSError, ValueError):
            process.stdin.write(line + "\n")
            process.stdin.flush()

    def _last_words(self, status: int) -> str:
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return "\n".join([f"its process {ending(status)} before it answered.", *lines[-_LAST_WORDS:]])


def ask(
    entry: str, job: BaseModel | Mapping[str, Any], on_event: Callable[[Any], None] = lambda event: None
) -> Any:
    """The answer to one job, of a process for it alone.

    Args:
        entry: see `serving`.

    Raises:
        WorkerError: see `Worker.ask`.
    """
    with Worker(serving(entry)) as worker:
        return worker.ask(job, on_event)


def serving(entry: str, *arguments: str) -> list[str]:
    """The command line of a `Worker`.

    Args:
        entry: "module:function"; called with `arguments`, it returns what does the work (`artifacts.worker_loop.Work`).
    """
    return command(f"{worker_loop.__name__}:main", entry, *arguments)


def command(entry: str, *arguments: str) -> list[str]:
    """The command line that calls a function in a new interpreter, which imports what this one does.

    The current folder and the folder of a user's script are not looked into, unless PYTHONPATH names them.

    Args:
        entry: "module:function"; the function is called without arguments.
        arguments: its `sys.argv[1:]`.
    """
    return [sys.executable, "-c", _START.format(path=_search_path()), entry, *arguments]


def ended_for_memory(status: int) -> bool:
    """Whether a process that ended so may have been ended for its memory.

    Args:
        status: as `subprocess.Popen.returncode` has it.
    """
    return status == -9 or status in _NO_MEMORY  # SIGKILL


def ending(status: int) -> str:
    """How a process ended, for a sentence: "ended with status 3", "was ended by signal 11 (SIGSEGV)".

    Args:
        status: as `subprocess.Popen.returncode` has it.
    """
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            return f"was ended by signal {-status}"
        return f"was ended by signal {-status} ({name}{'; out of memory?' if name == 'SIGKILL' else ''})"
    if status >= 1 << 31:  # an NTSTATUS
        return f"ended with status 0x{status:08X}{' (out of memory?)' if status in _NO_MEMORY else ''}"
    return f"ended with status {status}"


def _search_path() -> list[str]:
    """`sys.path`, without what Python put there for the user's own files."""
    # Where the top-level package of this module lies.
    root = str(Path(__file__).absolute().parents[__name__.count(".")])
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    users = {"" if script is None else os.path.dirname(os.path.realpath(script))}
    try:
        users.add(os.getcwd())
        folders = [os.path.abspath(entry) for entry in sys.path]
    except OSError:  # the current folder is gone
        folders = [entry for entry in sys.path if os.path.isabs(entry)]
    return [folder for folder in folders if folder == root or folder not in users]
