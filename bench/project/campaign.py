"""`python -m bench.project.campaign`: artifacts and models are damaged at random, and what becomes of them is counted.

Damage (flipped bits, cut files, files in each other's place) must be an error. A forgery has right hashes, as its
author writes them: it may be loaded, or be an error. A model that was changed may be captured, as a compile does first,
or be an error. A compile that is killed, or whose disk becomes full, leaves OUT whole or away. An exception that is
none of ours, more than `SLOW` seconds, and damage that is taken for whole are wrong; each such case is kept, as small
as it was made: one change.
What became of the trials is told on stderr and kept in the file of `--work`: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from artifacts.errors import LatentcError
from artifacts.manifest import MANIFEST_NAME
from artifacts.manifest_reading import read_manifest
from artifacts.verification import open_artifact
from bench.markdown_tables import table
from bench.project import campaign_publishing as publishing
from bench.project.campaign_tallies import Ledger, Tally, Wrong
from bench.project.damage import flip, mutate

SLOW = 10.0
"""Seconds of the processor for one trial."""

Change = Callable[[Path, random.Random], str]
"""Changes the artifact in a folder; returns what it did."""


@dataclass(frozen=True)
class Kind:
    """One way of changing an artifact.

    Attributes:
        change: what is done to a copy.
        use: what is then done with it.
        damage: whether only an error is right.
        model: whether it is the built-in model that is copied, and no artifact.
    """

    change: Change
    use: Callable[[Path], object]
    damage: bool
    model: bool = False


def manifest_bits(root: Path, rng: random.Random) -> str:
    """Up to three bits of the manifest are flipped."""
    return flip(root / MANIFEST_NAME, rng)


def manifest_tree(root: Path, rng: random.Random) -> str:
    """One value of the manifest is replaced, removed, renamed or doubled, and the digest made right."""
    path = root / MANIFEST_NAME
    value = json.loads(path.read_text(encoding="utf-8"))
    change = mutate(value, rng)
    path.write_bytes(with_right_digest(value))
    return change


def file_damage(root: Path, rng: random.Random) -> str:
    """A listed file has flipped bits, is cut, or changes places with another one."""
    files = [root / file["path"] for file in json.loads((root / MANIFEST_NAME).read_text("utf-8"))["files"]]
    file, other = rng.choice(files), rng.choice(files)
    kind = rng.choice(("flip", "cut", "swap"))
    if kind == "swap" and file.read_bytes() != other.read_bytes():
        first, second = file.read_bytes(), other.read_bytes()
        file.write_bytes(second)
        other.write_bytes(first)
        return f"swap {file.relative_to(root)} and {other.relative_to(root)}"
    if kind == "cut" and file.stat().st_size:
        data = file.read_bytes()
        file.write_bytes(data[: rng.randrange(len(data))])
        return f"cut {file.relative_to(root)} to {file.stat().st_size}"
    return flip(file, rng)


def forged_file(root: Path, rng: random.Random) -> str:
    """A JSON file is changed by structure, or another file damaged; all hashes are made right."""
    listed = json.loads((root / MANIFEST_NAME).read_text("utf-8"))["files"]
    texts = [file["path"] for file in listed if file["path"].endswith(".json")]
    if texts and rng.random() < 0.7:
        file = root / rng.choice(texts)
        value = json.loads(file.read_text("utf-8"))
        change = f"{file.relative_to(root)}: {mutate(value, rng)}"
        file.write_text(json.dumps(value), encoding="utf-8")
    else:
        change = file_damage(root, rng)
    rehash(root)
    return change


def with_right_digest(value: Any) -> bytes:
    """The file of a manifest, as its author writes it."""
    if not isinstance(value, dict) or not isinstance(value.get("digest"), str) or not value["digest"]:
        return json.dumps(value).encode()
    text = json.dumps({**value, "digest": "0" * 64}).encode()
    return text.replace(b"0" * 64, hashlib.sha256(text).hexdigest().encode(), 1)


def rehash(root: Path) -> None:
    """Makes the manifest list each of its files as it is now."""
    path = root / MANIFEST_NAME
    value = json.loads(path.read_text("utf-8"))
    for file in value["files"]:
        data = (root / file["path"]).read_bytes()
        file |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    path.write_bytes(with_right_digest(value))


def built_in_model() -> Path:
    """The folder of the model that comes with latentc."""
    from compiler.source import builtin_models, local_folder

    folder = local_folder(next(iter(builtin_models())))
    assert folder is not None
    return folder


def load_and_open(root: Path) -> None:
    """All that comes before a picture."""
    from runtimes.pipeline import load

    with load(root, cache=False) as pipeline:
        pipeline.open()


def changed_model(root: Path, rng: random.Random) -> str:
    """A JSON file of a model is changed by structure, or any file damaged."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    file = rng.choice([path for path in files if path.suffix == ".json"])
    if rng.random() < 0.2:
        return flip(rng.choice(files), rng)
    value = json.loads(file.read_text("utf-8"))
    change = mutate(value, rng)
    file.write_text(json.dumps(value), encoding="utf-8")
    return f"{file.relative_to(root)}: {change}"


def capture_model(root: Path) -> None:
    """All that comes before a graph is exported."""
    from compiler.capture.capture import capture
    from compiler.source import open_model

    capture(open_model(str(root)))


KINDS = {
    "manifest, damaged": Kind(manifest_bits, read_manifest, damage=True),
    "manifest, forged": Kind(manifest_tree, open_artifact, damage=False),
    "file, damaged": Kind(file_damage, open_artifact, damage=True),
    "manifest, forged and loaded": Kind(manifest_tree, load_and_open, damage=False),
    "file, forged and loaded": Kind(forged_file, load_and_open, damage=False),
    "model, changed": Kind(changed_model, capture_model, damage=False, model=True),
    "killed while it publishes": Kind(publishing.killed, publishing.publish_and_look, damage=False),
    "killed while it replaces": Kind(publishing.killed_replacing, publishing.publish_and_look, damage=False),
    "disk full while it publishes": Kind(publishing.full_disk, publishing.publish_and_look, damage=False),
}
QUICK = tuple(KINDS)[:3]
"""Those that import no library of models."""


def attempt(kind: str, artifact: Path, trial: int, seed: int, tally: Tally, keep: Path | None) -> None:
    """Copies the artifact, changes the copy, uses it, and counts what became of it."""
    rng = random.Random(f"{seed} {kind} {trial}")
    with tempfile.TemporaryDirectory(prefix="latentc-campaign-") as folder:
        root = Path(folder) / "artifact"
        shutil.copytree(built_in_model() if KINDS[kind].model else artifact, root)
        change = KINDS[kind].change(root, rng)
        start = time.process_time()
        outcome = ""
        try:
            KINDS[kind].use(root)
            counted = "wrong" if KINDS[kind].damage else "taken"
            outcome = "taken for whole"
        except LatentcError:
            counted = "typed"
        except Exception as error:
            counted, outcome = "wrong", f"{type(error).__name__}: {error}"[:300]
        if (seconds := time.process_time() - start) > SLOW:
            counted, outcome = "wrong", f"took {seconds:.0f} seconds"
        tally.counts[counted] += 1
        if counted == "wrong":
            tally.wrong.append(Wrong(kind, trial, change, outcome))
            if keep is not None:
                place = keep / f"{kind.replace(', ', '-').replace(' ', '-')}-{seed}-{trial}"
                shutil.copytree(root, place, dirs_exist_ok=True)
                (keep / f"{place.name}.txt").write_text(f"{change}\n{outcome}\n", encoding="utf-8")


def run(
    artifact: Path,
    trials: int,
    seed: int = 0,
    kinds: Sequence[str] = tuple(KINDS),
    keep: Path | None = None,
    deadline: float | None = None,
    work: Path | None = None,
) -> dict[str, Tally]:
    """Kind -> what became of its trials.

    Args:
        trials: of each kind.
        keep: where copies of what went wrong are put; None for nowhere.
        deadline: of `time.monotonic`; after it no other trial starts.
        work: a file that keeps what became of the trials; one that is there is gone on from. None for none.

    Raises:
        UsageError: `work` is of another campaign; LatentcError: it is none.
    """
    plan = {"artifact": str(artifact.absolute()), "seed": seed}
    ledger = Ledger(kinds, plan, work)
    # Imports what there is to import.
    if any(KINDS[kind].use is load_and_open for kind in kinds):
        load_and_open(artifact)
    if any(KINDS[kind].model for kind in kinds):
        capture_model(built_in_model())
    try:
        for trial in range(trials):
            for kind, tally in ledger.tallies.items():
                is_done = trial < tally.counts.total()
                if not is_done and (deadline is None or time.monotonic() < deadline):
                    attempt(kind, artifact, trial, seed, tally, keep)
                    ledger.step(trials)
    finally:
        ledger.save()
    return ledger.tallies


def report(tallies: dict[str, Tally]) -> str:
    """A Markdown table."""
    rows = [
        (kind, str(tally.counts.total()), *(str(tally.counts[what]) for what in ("typed", "taken", "wrong")))
        for kind, tally in tallies.items()
    ]
    return table(("what was changed", "tried", "typed error", "taken", "wrong"), rows)


def peak_bytes() -> int | None:
    """The most memory that this process had at any time; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


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
    tallies = run(options.artifact, options.trials, options.seed, kinds, options.keep, deadline, options.work)
    print(report(tallies))
    if (peak := peak_bytes()) is not None:
        print(f"Most memory at any time: {decimal(peak)}")
    wrong = [case for tally in tallies.values() for case in tally.wrong]
    for case in wrong:
        print(f"{case.kind}, trial {case.trial}: {case.change}: {case.outcome}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
