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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from artifacts.errors import LatentcError
from artifacts.memory import high_water
from artifacts.units import size
from artifacts.worker import Worker, WorkerEnded, serving
from artifacts.worker_loop import tell
from bench.project.audit_watch import AuditWatch, note_classes
from bench.project.campaign_kinds import Kind, built_in_model, capture_model, load_and_open
from bench.project.campaign_watch import Watcher
from bench.project.working_copy import WorkingCopy

_TRACES = "traces.txt"
KINDS_TABLE = "bench.project.campaign_kinds:KINDS"


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        trial: its number.
        counted: "typed" (a `LatentcError`), "taken" (it works) or "wrong".
        change: what was changed.
        text: why it is wrong.
        seconds: that it took.
        memory: the most bytes that the process held; 0 where others were started, which are not measured.
        is_late: whether the time that it took is what is wrong.
    """

    trial: int
    counted: str
    change: str
    text: str = ""
    seconds: float = 0.0
    memory: int = 0
    is_late: bool = False


class Trials:
    """What the process does: a job {"kind", "trials": [first, end]} is a row of trials, up to the first that is wrong.

    Told are {"change"} when a trial begins, and an `Outcome`'s fields when it has ended.
    """

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

    def __call__(self, line: str) -> None:
        job = json.loads(line)
        for trial in range(*job["trials"]):
            outcome = self._tried(job["kind"], trial)
            tell(outcome)
            if outcome["counted"] == "wrong":
                return  # The copy stays as it is, to be kept.

    def _tried(self, name: str, trial: int) -> dict[str, Any]:
        kind = self._kinds[name]
        copy = self._copies[kind.model]
        copy.restore()
        change = kind.change(copy.root, random.Random(f"{self._seed} {name} {trial}"))
        tell({"change": change})
        before = _forget_peak()
        counted, text = self._used(kind, copy.root)
        peak = _peak()
        if peak > kind.memory and peak > before:
            counted, text = "wrong", f"the process held {size(peak)}"
        return {
            "trial": trial,
            "counted": counted,
            "change": change,
            "text": text,
            "memory": 0 if kind.processes else peak,
        }

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


def kinds_of(table: str) -> dict[str, Kind]:
    """The kinds that a table has: "module:attribute" of a mapping from their names."""
    module, _, attribute = table.partition(":")
    kinds: dict[str, Kind] = getattr(import_module(module), attribute)
    return kinds


def trials(artifact: str, place: str, seed: str, table: str, *names: str) -> Trials:
    """What `artifacts.worker_loop` serves."""
    kinds = kinds_of(table)
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
        self._kinds = kinds_of(table)
        self._artifact, self._seed, self._table, self._names = artifact.absolute(), seed, table, tuple(kinds)
        self._keep = keep
        self._running: tuple[Worker, Watcher] | None = None

    def attempt(self, kind: str, trials: range, count: Callable[[Outcome], None]) -> None:
        """Copies are changed and used, one after the other, until one of them is wrong.

        A trial that takes too long is tried once more, alone: the machine may have stood still. The second time counts.

        Args:
            trials: numbers without a step.
            count: is given each outcome, once.

        Raises:
            WorkerError: the process cannot begin.
        """
        wrong = self._asked(kind, trials, count)
        if wrong is not None and wrong.is_late:
            wrong = self._asked(kind, range(wrong.trial, wrong.trial + 1), count)
        if wrong is not None:
            count(wrong)

    def _asked(self, kind: str, trials: range, count: Callable[[Outcome], None]) -> Outcome | None:
        """The first outcome that is wrong, which is not counted; None where all are right."""
        worker, watcher = self._started()
        trial, change = trials.start, ""
        wrong: Outcome | None = None

        def hear(event: Any) -> None:
            nonlocal trial, change, wrong
            if wrong is not None:
                return  # It was too late; the process is ended, and may have begun the next one.
            if "counted" not in event:
                change = event["change"]
                watcher.begin(self._kinds[kind])
                return
            outcome = _timed(Outcome(**event), watcher)
            if outcome.counted == "wrong":
                wrong = outcome
                if outcome.is_late:
                    watcher.kill()
            else:
                count(outcome)
                trial, change = trial + 1, ""

        has_ended = False
        try:
            worker.ask({"kind": kind, "trials": [trials.start, trials.stop]}, hear)
        except WorkerEnded as error:
            has_ended = True
            if wrong is None:
                if not change:
                    raise
                wrong = _timed(Outcome(trial, "wrong", change, error.message[-300:]), watcher)
        if wrong is not None and self._keep is not None:
            self._save(self._keep, kind, wrong)
        if has_ended or watcher.has_killed:
            self.close()
        return wrong

    def _started(self) -> tuple[Worker, Watcher]:
        if self._running is None:
            self._place = Path(tempfile.mkdtemp(prefix="latentc-campaign-")).resolve()
            words = (str(self._artifact), str(self._place), str(self._seed), self._table, *self._names)
            worker = Worker(serving(f"{__name__}:trials", *words))
            self._running = worker, Watcher(worker, self._place / _TRACES)
        return self._running

    def _save(self, keep: Path, kind: str, outcome: Outcome) -> None:
        holder = self._place / ("model" if self._kinds[kind].model else "artifact")
        place = keep / f"{kind.replace(', ', '-').replace(' ', '-')}-{self._seed}-{outcome.trial}"
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


def _timed(outcome: Outcome, watcher: Watcher) -> Outcome:
    """An outcome with the time that it took, and what the watcher says against it."""
    seconds, fault = watcher.end()
    outcome = replace(outcome, seconds=seconds)
    if fault is None:
        return outcome
    return replace(outcome, counted="wrong", text=fault.text, is_late=fault.is_late)


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
