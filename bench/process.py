"""The other side of `bench.worker`: starts a worker, asks it, and watches how much memory it takes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from artifacts.errors import LatentcError, UsageError
from artifacts.worker import ending

SAMPLE_SECONDS = 0.01


class WorkerBug(RuntimeError):
    """An error of a worker that is not a `LatentcError`; holds its traceback."""


@dataclass(frozen=True)
class Peaks:
    """The most memory that a process held, in bytes.

    Attributes:
        total: resident, of any kind.
        anonymous: resident and of no file: weights that were read, converted or cast, activations. None where
            the system does not tell the kinds apart.
        file_backed: resident pages of mapped files (weights that were mapped, libraries), which the system can
            drop and read again; None as above. Its peak need not be at the same time.
    """

    total: int
    anonymous: int | None
    file_backed: int | None


class Worker:
    """A process that draws. As a context manager it is ended at the end."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """
        Args:
            name: for messages.
            command: ends in `bench.worker.serve`.
            env: variables besides ours.
        """
        self.name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=dict(os.environ if env is None else env),
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer.

        Raises:
            LatentcError: as the worker raised it; or the worker has ended.
            WorkerBug: the worker raised anything else.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise LatentcError(self._ended())
        answer: dict[str, Any] = json.loads(line)
        if "error" not in answer:
            return answer
        if answer["trace"]:
            raise WorkerBug(f"{self.name}: {answer['trace']}")
        kind = UsageError if answer["exit_code"] == UsageError.exit_code else LatentcError
        raise kind(f"{self.name}: {answer['error']}", answer["hint"])

    def _ended(self) -> str:
        status = self._process.wait()
        self._said.seek(0)
        last = self._said.read().decode("utf-8", "replace").strip().splitlines()[-5:]
        return "\n".join([f"{self.name}: its process {ending(status)}.", *last])

    def close(self) -> None:
        """Ends the process; twice is harmless."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self.close()


class Watch:
    """Samples a process's memory from a thread, between `__enter__` and `__exit__`."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._anonymous = self._file = self._total = 0
        self._kinds = False

    def _sample(self) -> None:
        import psutil

        while True:
            try:
                info = self._process.memory_info()
            except psutil.Error:
                return
            self._total = max(self._total, info.rss)
            if hasattr(info, "shared"):  # Linux: resident pages of files and of shared memory.
                self._kinds = True
                self._anonymous = max(self._anonymous, info.rss - info.shared)
                self._file = max(self._file, info.shared)
            if self._stop.wait(SAMPLE_SECONDS):
                return

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def peaks(self) -> Peaks:
        """What was seen up to now; the total is the system's own figure where it keeps one."""
        total = max(self._total, high_water(self._process.pid) or 0)
        if not self._kinds:
            return Peaks(total, None, None)
        return Peaks(total, self._anonymous, self._file)


def high_water(pid: int) -> int | None:
    """Bytes that the process held at most, by the kernel's count; None where it keeps none."""
    if sys.platform != "linux":
        return None
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def forget(files: Iterable[Path]) -> bool:
    """Drops `files` from the system's page cache, so that the next read is from disk.

    Returns:
        Whether this system can; a page that another process has mapped stays all the same.
    """
    if sys.platform == "win32" or not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True
