"""What became of a campaign's trials: counted, kept in a file as it goes, and told of."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from artifacts.errors import LatentcError, UsageError
from bench.project.campaign_trials import Outcome

SAVED_EVERY = 5.0
"""Seconds."""
TOLD_EVERY = 30.0
"""Seconds."""


@dataclass(frozen=True)
class Wrong:
    """One case: which kind and trial, what was changed, and what came of it."""

    kind: str
    trial: int
    change: str
    outcome: str


@dataclass
class Tally:
    """What became of the trials of one kind: "typed", "taken" or "wrong" -> how many.

    Attributes:
        seconds: of the longest trial.
        memory: the most bytes that the process held in a trial; 0 where that was not measured.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[Wrong] = field(default_factory=list)
    seconds: float = 0.0
    memory: int = 0


class Ledger:
    """The tallies of a campaign, kept in a file so that one that was stopped goes on."""

    def __init__(self, kinds: Iterable[str], plan: Mapping[str, Any], file: Path | None = None) -> None:
        """
        Args:
            kinds: that are tried now; those of the file that are not among them stay in it.
            plan: what makes two campaigns the same one (artifact, seed): JSON values.
            file: where to keep it, and to go on from if it is there; None for nowhere.

        Raises:
            UsageError: the file is of a campaign of another plan; LatentcError: it is none, or cannot be read.
        """
        self._file, self._plan = file, dict(plan)
        self._all = {} if file is None or not file.exists() else self._read(file)
        self.tallies = {kind: self._all.setdefault(kind, Tally()) for kind in kinds}
        self._saved = self._told = self._start = time.monotonic()
        self._before = self._done()

    def _read(self, file: Path) -> dict[str, Tally]:
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            plan = value["plan"]
            tallies = {
                kind: Tally(
                    Counter(tally["counts"]),
                    [Wrong(**case) for case in tally["wrong"]],
                    float(tally["seconds"]),
                    int(tally["memory"]),
                )
                for kind, tally in value["tallies"].items()
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise LatentcError(
                f"{file} holds no campaign's results: {error}.", "Name another file: --work FILE"
            ) from error
        if plan != self._plan:
            raise UsageError(
                f"{file} holds the results of {plan}; asked for {self._plan}.",
                "Name another file: --work FILE",
            )
        return tallies

    def _done(self) -> int:
        return sum(tally.counts.total() for tally in self.tallies.values())

    def count(self, kind: str, outcome: Outcome, trials: int) -> None:
        """Counts what became of a trial; saves and tells from time to time. `trials` are meant for each kind."""
        tally = self.tallies[kind]
        tally.counts[outcome.counted] += 1
        tally.seconds = max(tally.seconds, outcome.seconds)
        tally.memory = max(tally.memory, outcome.memory)
        if outcome.counted == "wrong":
            tally.wrong.append(Wrong(kind, outcome.trial, outcome.change, outcome.text))
        now = time.monotonic()
        if now - self._saved > SAVED_EVERY:
            self.save()
        if now - self._told > TOLD_EVERY:
            self._told = now
            done, whole = self._done(), trials * len(self.tallies)
            rate = (done - self._before) / (now - self._start)
            wrong = sum(tally.counts["wrong"] for tally in self.tallies.values())
            left = f"about {(whole - done) / rate / 60:.0f} minutes left" if rate else ""
            print(f"{done:,} of {whole:,} trials, {wrong} wrong; {left}", file=sys.stderr, flush=True)

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        self._saved = time.monotonic()
        if self._file is None:
            return
        tallies = {
            kind: {
                "counts": dict(tally.counts),
                "wrong": [asdict(case) for case in tally.wrong],
                "seconds": round(tally.seconds, 3),
                "memory": tally.memory,
            }
            for kind, tally in self._all.items()
        }
        value = {"plan": self._plan, "tallies": tallies}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_name(f"{self._file.name}.new")
        partial.write_text(json.dumps(value), encoding="utf-8")
        partial.replace(self._file)
