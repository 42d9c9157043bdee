"""`python -m bench.project.memlimit MIB COMMAND...`: a command under a hard limit on its memory, page cache included.

"Fits in N MiB" is thereby tested and not read off a counter: over the limit, the kernel kills the command.
Needs Linux and the right to make a memory control group (cgroup v1 or v2), which as a rule is root's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from artifacts.control_groups import CGROUPS
from artifacts.errors import LatentcError, UsageError
from artifacts.resident import Watch

MIB = 1 << 20
# The child enters its group before it becomes the command, so that nothing of the command runs outside.
ENTER = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execvp(sys.argv[2], sys.argv[2:])"


@dataclass(frozen=True)
class Usage:
    """How a command ended.

    Attributes:
        status: its exit status; 137 when it, or a process that it started, was killed for its memory.
        killed: for its memory.
        seconds: from start to end.
        peak: bytes of the whole group at most, page cache included; None where there was no group.
        cpu: seconds of all its processes on a processor; None where unknown.
        resident: bytes of the largest single process at most, without page cache; None where unknown.
        anonymous: bytes of no file that the command's own process held at most, sampled; None where the system does
            not tell.
    """

    status: int
    killed: bool
    seconds: float
    cpu: float | None
    peak: int | None
    resident: int | None
    anonymous: int | None = None


class Group:
    """A memory control group. As a context manager it is removed at the end."""

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: in bytes.

        Raises:
            LatentcError: no group can be made here.
        """
        name = f"latentc-{os.getpid()}-{time.monotonic_ns()}"
        v1, v2 = CGROUPS / "memory", CGROUPS
        hint = "Run it as root on Linux, or leave the memory limits out (--no-limits)."
        try:
            if (v1 / "memory.limit_in_bytes").exists():
                self.folder = v1 / name
                self.folder.mkdir()
                self.version = 1
                self._write("memory.limit_in_bytes", limit)
                if (self.folder / "memory.memsw.limit_in_bytes").exists():
                    self._write("memory.memsw.limit_in_bytes", limit)
            elif (v2 / "cgroup.controllers").exists():
                self.folder = v2 / name
                self.folder.mkdir()
                self.version = 2
                self._write("memory.max", limit)
                if (self.folder / "memory.swap.max").exists():
                    self._write("memory.swap.max", 0)
            else:
                raise LatentcError(
                    "a hard memory limit needs Linux control groups; there are none here.", hint
                )
        except OSError as error:
            if getattr(self, "folder", None) and self.folder.is_dir():
                self.folder.rmdir()
            raise LatentcError(f"cannot make a memory control group: {error}.", hint) from error

    @property
    def entry(self) -> Path:
        """A process that writes its id here is in the group."""
        return self.folder / ("tasks" if self.version == 1 else "cgroup.procs")

    def lower(self, room: int) -> None:
        """Sets the limit to what its processes hold, files that the system can drop left out, and so many bytes more.

        Raises:
            LatentcError: the kernel does not reclaim as much.
        """
        limit, usage, cached = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
            if self.version == 1
            else ("memory.max", "memory.current", ("active_file", "inactive_file"))
        )
        for _ in range(50):
            used = int((self.folder / usage).read_text())
            counts = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
            try:
                self._write(limit, used - sum(int(counts[name]) for name in cached) + room)
                return
            except OSError:  # Busy: pages that are being written, or that a process took meanwhile.
                time.sleep(0.1)
        raise LatentcError("the kernel does not reclaim what the group holds.")

    def peak(self) -> int | None:
        """Bytes of the whole group at most so far; None where the kernel does not tell (v2 before 5.19)."""
        file = self.folder / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")
        return int(file.read_text()) if file.exists() else None

    def kills(self) -> int:
        """How many processes were killed for the limit."""
        file = self.folder / ("memory.oom_control" if self.version == 1 else "memory.events")
        counts = dict(line.split() for line in file.read_text().splitlines())
        return int(counts.get("oom_kill", 0))

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *exc: object) -> None:
        for _ in range(50):
            # What the command left behind; nothing else is ever in this group.
            for pid in (self.folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.1)

    def _write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))


def run(
    command: Sequence[str],
    limit: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | None = None,
) -> Usage:
    """Runs `command` to its end.

    Args:
        limit: in bytes; None for no limit, which works everywhere.
        output: where its stdout and stderr go; None for ours.

    Raises:
        LatentcError: a limit was asked for and no control group can be made here.
    """
    if limit is None:
        return _finish(list(command), None, env, cwd, output)
    with Group(limit) as group:
        return _finish([sys.executable, "-c", ENTER, str(group.entry), *command], group, env, cwd, output)


def _finish(
    command: list[str],
    group: Group | None,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    output: IO[bytes] | None,
) -> Usage:
    start = time.perf_counter()
    process = subprocess.Popen(command, env=env, cwd=cwd, stdout=output, stderr=output and subprocess.STDOUT)
    resident: int | None = None
    cpu: float | None = None
    watch = Watch(process.pid)
    try:
        with watch:
            if sys.platform == "win32":
                status = process.wait()
            else:
                _, wait_status, usage = os.wait4(process.pid, 0)
                status = process.returncode = os.waitstatus_to_exitcode(wait_status)
                cpu = usage.ru_utime + usage.ru_stime
                resident = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    except BaseException:
        process.kill()
        raise
    seconds = time.perf_counter() - start
    killed = group is not None and group.kills() > 0
    peak = group.peak() if group else None
    return Usage(137 if killed else status, killed, seconds, cpu, peak, resident, watch.peaks().anonymous)


def main() -> None:
    arguments = sys.argv[1:]
    if len(arguments) < 2 or not arguments[0].isdigit():
        sys.exit("Usage: python -m bench.project.memlimit MIB COMMAND...")
    try:
        if int(arguments[0]) == 0:
            raise UsageError("the limit is at least 1 MiB.")
        usage = run(arguments[1:], int(arguments[0]) * MIB)
    except LatentcError as error:
        sys.exit(f"Error: {error}")
    peak = "unknown" if usage.peak is None else f"{usage.peak // MIB} MiB"
    print(
        f"{'killed' if usage.killed else f'exit {usage.status}'}, {usage.seconds:.1f} s, "
        f"peak {peak} of {arguments[0]} MiB",
        file=sys.stderr,
    )
    sys.exit(usage.status if usage.status >= 0 else 128 - usage.status)


if __name__ == "__main__":
    main()
