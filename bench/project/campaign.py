"""`python -m bench.project.campaign`: artifacts and models are damaged at random, and what becomes of them is counted.

Damage (flipped bits, cut files, files in each other's place) must be an error. A forgery has right hashes, as its
author writes them, and a hostile artifact names code, classes, files and sizes: either may be loaded, or be an error. A
model that was changed may be captured, as a compile does first, or be an error. A compile that is killed, or whose disk
becomes full, leaves OUT whole or away. Wrong are an exception that is none of ours, a process that ends, more than 10
seconds or 1 GiB, damage that is taken for whole, and what `bench.project.audit_watch` forbids: files outside,
connections, pickles, processes, classes of others. Each such case is kept, as small as it was made.
What became of the trials is told on stderr and kept in the file of `--work`: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from artifacts.units import size
from artifacts.verification import open_artifact
from bench.markdown_tables import table as markdown_table
from bench.project.campaign_kinds import KINDS, QUICK
from bench.project.campaign_tallies import Ledger, Tally
from bench.project.campaign_trials import KINDS_TABLE, Outcome, TrialProcess, kinds_of


def run(
    artifact: Path,
    trials: int,
    seed: int = 0,
    kinds: Sequence[str] = tuple(KINDS),
    keep: Path | None = None,
    deadline: float | None = None,
    work: Path | None = None,
    table: str = KINDS_TABLE,
) -> dict[str, Tally]:
    """Kind -> what became of its trials. Each kind has the same time, not the same number.

    Args:
        trials: of each kind.
        keep: where copies of what went wrong are put; None for nowhere.
        deadline: of `time.monotonic`; after it no other trial starts.
        work: a file that keeps what became of the trials; one that is there is gone on from. None for none.
        table: "module:attribute" of the mapping that has the kinds.

    Raises:
        UsageError: `work` is of another campaign; LatentcError: it is none.
    """
    plan = {"artifact": str(artifact.absolute()), "seed": seed}
    ledger = Ledger(kinds, plan, work)
    kinds_by_name = kinds_of(table)
    spent = dict.fromkeys(ledger.tallies, 0.0)
    with ExitStack() as stack:
        processes = {
            heavy: stack.enter_context(TrialProcess(artifact, seed, names, table, keep))
            for heavy in (False, True)
            if (names := [kind for kind in ledger.tallies if kinds_by_name[kind].heavy == heavy])
        }
        stack.callback(ledger.save)
        while deadline is None or time.monotonic() < deadline:
            waiting = [kind for kind, tally in ledger.tallies.items() if tally.counts.total() < trials]
            if not waiting:
                break
            kind, begun = min(waiting, key=spent.__getitem__), time.monotonic()
            tried = ledger.tallies[kind].counts.total()

            def count(outcome: Outcome, kind: str = kind) -> None:
                ledger.count(kind, outcome, trials)

            row = range(tried, min(tried + kinds_by_name[kind].row, trials))
            processes[kinds_by_name[kind].heavy].attempt(kind, row, count)
            spent[kind] += time.monotonic() - begun
    return ledger.tallies


def report(tallies: dict[str, Tally]) -> str:
    """A Markdown table."""
    rows = [
        (
            kind,
            f"{tally.counts.total():,}",
            *(f"{tally.counts[verdict]:,}" for verdict in ("typed", "taken", "wrong")),
            f"{tally.seconds:.1f} s",
            size(tally.memory) if tally.memory else "not measured",
        )
        for kind, tally in tallies.items()
    ]
    columns = ("what was changed", "tried", "typed error", "taken", "wrong", "longest", "most memory")
    return markdown_table(columns, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.project.campaign", description=__doc__)
    parser.add_argument("artifact", type=Path, help="a sound artifact; it is copied and stays as it is")
    parser.add_argument("--trials", type=int, default=1_000, help="of each kind (default: 1000)")
    parser.add_argument("--hours", type=float, help="start no trial after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("campaign"), help="a folder for what went wrong")
    parser.add_argument(
        "--work", type=Path, help="a file that keeps the results; goes on from it if it is there"
    )
    parser.add_argument("--quick", action="store_true", help="load nothing: manifests and hashes alone")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, help="only this one; may be given several times"
    )
    options = parser.parse_args(arguments)
    open_artifact(options.artifact)
    deadline = None if options.hours is None else time.monotonic() + options.hours * 3600
    kinds = tuple(options.kind or (QUICK if options.quick else KINDS))
    tallies = run(
        options.artifact,
        options.trials,
        options.seed,
        kinds,
        options.keep,
        deadline,
        options.work,
        KINDS_TABLE,
    )
    print(report(tallies))
    wrong = [case for tally in tallies.values() for case in tally.wrong]
    for case in wrong:
        print(f"{case.kind}, trial {case.trial}: {case.change}: {case.outcome}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
