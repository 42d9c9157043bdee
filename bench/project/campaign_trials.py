"""The trials of a campaign, in a process of their own: it may hang, crash or take all memory.

`Trials` is the side that tries, `TrialProcess` the one that asks for trials, watches their time and memory, and ends
the process where one is over.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.filesize import decimal

from artifacts.errors import LatentcError
from artifacts.memory import high_water
from artifacts.worker import Worker, WorkerEnded, serving
from artifacts.worker_loop import tell
from bench.project.audit_watch import AuditWatch, note_classes
from bench.project.campaign_kinds import Kind, built_in_model, capture_model, load_and_open
from bench.project.working_copy import WorkingCopy

_STOP_AT = 2
"""Times the memory of a trial at which the process is ended, before the machine has none left."""
_LOOK_EVERY = 0.5
"""Seconds."""
_TRACES = "traces.txt"
KINDS_TABLE = "bench.project.campaign_kinds:KINDS"


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        counted: "typed" (a `LatentcError`), "taken" (it works) or "wrong".
        change: what was changed.
        text: why it is wrong.
        seconds: that it took.
        memory: the most bytes that the process held; 0 where others were started, which are not measured.
    """

    counted: str
    change: str
    text: str = ""
    seconds: float = 0.0
    memory: int = 0


class Trials:
    """What the process does: answers each job {"kind", "trial"} with an `Outcome`'s fields."""

    def __init__(self, artifact: Path, place: Path, seed: int, table: dict[str, Kind]) -> None:
        """Copies, imports what there is to import by using what is sound, and begins to listen.

        Args:
            artifact: a sound one.
            place: a folder of this process alone.
            table: the kinds that will be tried.
        """
        self._seed, self._kinds = seed, table
        originals = {False: artifact}
        if any(kind.model for kind in table.values()):
            originals[True] = built_in_model()
        self._copies = {
            model: WorkingCopy(original, place / ("model" if model else "artifact"))
            for model, original in originals.items()
        }
        temporary = place / "temporary"
        temporary.mkdir()
        os.chdir(temporary)
        tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
        os.environ["LATENTC_CACHE"] = str(temporary / "cache")
        for use in {kind.use: None for kind in table.values() if not kind.processes}:
            model = next(kind.model for kind in table.values() if kind.use is use)
            use(self._copies[model].root)
        self._audit = AuditWatch([copy.root for copy in self._copies.values()], temporary)
        self._pipelines: set[type] = set()
        if {load_and_open, capture_model} & {kind.use for kind in table.values()}:
            note_classes(self._audit.note, self._pipelines.add)
        if hasattr(faulthandler, "register"):
            # Kept open: its descriptor is what the handler writes to.
            self._traces = (place / _TRACES).open("w", encoding="utf-8")
            faulthandler.register(signal.SIGUSR1, file=self._traces, all_threads=True)

    def __call__(self, line: str) -> dict[str, Any]:
        job = json.loads(line)
        kind, copy = self._kinds[job["kind"]], self._copies[self._kinds[job["kind"]].model]
        copy.restore()
        change = kind.change(copy.root, random.Random(f"{self._seed} {job['kind']} {job['trial']}"))
        tell({"change": change})
        before = _forget_peak()
        counted, text = self._used(kind, copy.root)
        peak = _peak()
        if peak > kind.memory and peak > before:
            counted, text = "wrong", f"the process held {decimal(peak)}"
        return {"counted": counted, "change": change, "text": text, "memory": 0 if kind.processes else peak}

    def _used(self, kind: Kind, root: Path) -> tuple[str, str]:
        self._pipelines.clear()
        watched = contextlib.nullcontext[list[str]]([]) if kind.processes else self._audit.watch()
        with watched as faults:
            try:
                kind.use(root)
                outcome = ("wrong", "taken for whole") if kind.damage else ("taken", "")
            except LatentcError:
                outcome = "typed", ""
            except BaseException as error:  # Rust's panics are no Exception.
                outcome = "wrong", f"{type(error).__name__}: {error}"[:300]
        if len(self._pipelines) > 1 and not kind.model:
            faults.append(f"made {len(self._pipelines)} pipelines")
        return ("wrong", "; ".join(faults)[:600]) if faults else outcome


def trials(artifact: str, place: str, seed: str, table: str, *names: str) -> Trials:
    """What `artifacts.worker_loop` serves."""
    module, _, attribute = table.partition(":")
    kinds = getattr(import_module(module), attribute)
    return Trials(Path(artifact), Path(place), int(seed), {name: kinds[name] for name in names})


class TrialProcess:
    """Asks for trials. A context manager: the process, and its folder, go at the end."""

    def __init__(
        self,
        artifact: Path,
        seed: int,
        kinds: Sequence[str],
        table: str = KINDS_TABLE,
        keep: Path | None = None,
    ) -> None:
        """
        Args:
            artifact: a sound one.
            kinds: those that will be tried.
            table: "module:attribute" of a mapping from names to `Kind`.
            keep: where copies of what went wrong are put; None for nowhere.
        """
        module, _, attribute = table.partition(":")
        self._kinds: dict[str, Kind] = getattr(import_module(module), attribute)
        self._artifact, self._seed, self._table, self._names = artifact.absolute(), seed, table, tuple(kinds)
        self._keep = keep
        self._running: tuple[Worker, _Watcher] | None = None

    def attempt(self, kind: str, trial: int) -> Outcome:
        """One trial: a copy is changed and used.

        Raises:
            WorkerError: the process cannot begin.
        """
        worker, watcher = self._started()
        change = ""

        def begin(event: Any) -> None:
            nonlocal change
            change = event["change"]
            watcher.begin(self._kinds[kind])

        has_ended = False
        try:
            outcome = Outcome(**worker.ask({"kind": kind, "trial": trial}, begin))
        except WorkerEnded as error:
            if not change:
                raise
            outcome, has_ended = Outcome("wrong", change, error.message[-300:]), True
        seconds, fault = watcher.end()
        outcome = replace(outcome, seconds=seconds)
        if fault:
            outcome = replace(outcome, counted="wrong", text=fault)
        if outcome.counted == "wrong" and self._keep is not None:
            self._save(self._keep, kind, trial, outcome)
        if has_ended or fault:
            self.close()
        return outcome

    def _started(self) -> tuple[Worker, _Watcher]:
        if self._running is None:
            self._place = Path(tempfile.mkdtemp(prefix="latentc-campaign-")).resolve()
            words = (str(self._artifact), str(self._place), str(self._seed), self._table, *self._names)
            worker = Worker(serving(f"{__name__}:trials", *words))
            self._running = worker, _Watcher(worker, self._place / _TRACES)
        return self._running

    def _save(self, keep: Path, kind: str, trial: int, outcome: Outcome) -> None:
        holder = self._place / ("model" if self._kinds[kind].model else "artifact")
        place = keep / f"{kind.replace(', ', '-').replace(' ', '-')}-{self._seed}-{trial}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(shutil.Error, OSError):  # Links that lead nowhere.
            shutil.copytree(holder / "root", place, symlinks=True)
        (keep / f"{place.name}.txt").write_text(f"{outcome.change}\n{outcome.text}\n", encoding="utf-8")

    def close(self) -> None:
        """Ends the process, and removes its folder; the next trial starts another."""
        if self._running is not None:
            worker, watcher = self._running
            self._running = None
            watcher.close()
            worker.close(wait=False)
            shutil.rmtree(self._place, ignore_errors=True)

    def __enter__(self) -> TrialProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Watcher:
    """Watches a process from a thread; ends it when a trial takes too long or too much memory.

    Time that the process waits for a processor, which others have, is not counted, where the system tells of it. The
    waits of all threads are added: a trial of several threads may have taken longer than is said.
    """

    def __init__(self, worker: Worker, traces: Path) -> None:
        """
        Args:
            traces: the file that the process writes its stacks to when it is asked to.
        """
        self._worker, self._traces = worker, traces
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._since: float | None = None
        self._waited = self._waited_before = 0.0
        self._fault = ""
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def begin(self, kind: Kind) -> None:
        """A trial begins."""
        with self._lock:
            self._since, self._kind, self._fault = time.monotonic(), kind, ""
            self._waited = self._waited_before = -1.0

    def end(self) -> tuple[float, str]:
        """The trial has ended; returns how many seconds it took and what was wrong with that."""
        with self._lock:
            if self._since is None:
                return 0.0, ""
            seconds, self._since = self._taken(), None
            if not self._fault and seconds > self._kind.seconds:
                self._fault = f"took {seconds:.1f} seconds"
            return seconds, self._fault

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._thread.join()

    def _taken(self) -> float:
        """Seconds of the trial, without those that the process waited for a processor."""
        assert self._since is not None
        return time.monotonic() - self._since - (self._waited - self._waited_before)

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_EVERY):
            with self._lock:
                if self._since is None or self._fault:
                    continue
                self._waited = _waited(self._worker.pid)
                if self._waited_before < 0:
                    self._waited_before = self._waited
                held = _resident(self._worker.pid)
                if self._taken() > self._kind.seconds:
                    self._fault = f"took more than {self._kind.seconds:g} seconds{self._calls()}"
                elif held > _STOP_AT * self._kind.memory:
                    self._fault = f"the process held {decimal(held)}{self._calls()}"
                if self._fault:
                    self._worker.kill()

    def _calls(self) -> str:
        """Where the process is: its innermost calls."""
        if not hasattr(signal, "SIGUSR1"):
            return ""
        with contextlib.suppress(OSError):
            os.kill(self._worker.pid, signal.SIGUSR1)
            time.sleep(_LOOK_EVERY)
            lines = self._traces.read_text(encoding="utf-8").splitlines()
            first = next((at for at, line in enumerate(lines) if line.startswith("Current thread")), -1)
            calls = [line.strip() for line in lines[first + 1 : first + 7]]
            return f", in {' < '.join(calls)}" if calls else ""
        return ""


def _waited(pid: int) -> float:
    """Seconds that the threads of a process have waited for a processor, together; 0 where nobody tells."""
    nanoseconds = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # A thread that has ended.
            nanoseconds += int(file.read_text(encoding="ascii").split()[1])
    return nanoseconds / 1e9


def _resident(pid: int) -> int:
    """Bytes that the process holds now."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _peak() -> int:
    """The most bytes that this process held since the last `_forget_peak`; ever, where that does nothing."""
    if (most := high_water(os.getpid())) is not None:
        return most
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _forget_peak() -> int:
    """Lets the system count the peak anew, where it can; returns what it is then."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()
