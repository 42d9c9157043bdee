"""What a campaign tries: each kind of change of an artifact or a model, and what is done with what was changed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.manifest import MANIFEST_NAME
from artifacts.manifest_reading import read_manifest
from artifacts.verification import open_artifact
from bench.project import campaign_publishing as publishing
from bench.project.damage import flip, mutate

SLOW = 10.0
"""Seconds for one trial."""
MEMORY = 1 << 30
"""Bytes."""
SLOW_PROCESSES = 120.0
"""Seconds for a trial that starts processes, which a busy machine keeps waiting."""

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
        seconds: that a trial may take.
        memory: bytes that the process may hold in a trial, its libraries among them.
        processes: whether the trial starts processes and writes beside the copy; else it may do neither.
        heavy: whether libraries of models are imported: such trials have a process of their own.
        row: trials that are tried one after the other before another kind has its turn.
    """

    change: Change
    use: Callable[[Path], object]
    damage: bool
    model: bool = False
    seconds: float = SLOW
    memory: int = MEMORY
    processes: bool = False
    heavy: bool = False
    row: int = 1


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


def rehash(root: Path, added: Iterable[str] = (), edit: Callable[[Any], object] | None = None) -> None:
    """Makes the manifest list each of its files as it is now.

    Args:
        added: files that it lists from now on.
        edit: changes the manifest, too.
    """
    path = root / MANIFEST_NAME
    value = json.loads(path.read_text("utf-8"))
    listed = {file["path"] for file in value["files"]}
    value["files"] += [{"path": name} for name in sorted({*added} - listed)]
    for file in value["files"]:
        data = (root / file["path"]).read_bytes()
        file |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    if edit is not None:
        edit(value)
    path.write_bytes(with_right_digest(value))


def built_in_model() -> Path:
    """The folder of the model that comes with latentc."""
    from compiler.source import builtin_models, local_folder

    folder = local_folder(next(iter(builtin_models())))
    assert folder is not None
    return folder


def open_remembering(root: Path) -> None:
    """Files that have not changed since a trial before are not read again, as where an artifact is loaded twice."""
    open_artifact(root, memory=Path(tempfile.gettempdir()) / "verified")


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


def _hostile(root: Path, rng: random.Random) -> str:
    from bench.project import hostile_artifacts

    return hostile_artifacts.hostile(root, rng)


def _hostile_model(root: Path, rng: random.Random) -> str:
    from bench.project import hostile_artifacts

    return hostile_artifacts.hostile_model(root, rng)


def _publishing(change: Change) -> Kind:
    return Kind(change, publishing.publish_and_look, damage=False, seconds=SLOW_PROCESSES, processes=True)


def _loaded(change: Change) -> Kind:
    return Kind(change, load_and_open, damage=False, heavy=True)


def _captured(change: Change) -> Kind:
    return Kind(change, capture_model, damage=False, model=True, heavy=True)


KINDS = {
    "manifest, damaged": Kind(manifest_bits, read_manifest, damage=True, row=200),
    "manifest, forged": Kind(manifest_tree, open_remembering, damage=False, row=200),
    "file, damaged": Kind(file_damage, open_artifact, damage=True, row=20),
    "manifest, forged and loaded": _loaded(manifest_tree),
    "file, forged and loaded": _loaded(forged_file),
    "hostile, with right hashes": _loaded(_hostile),
    "model, changed": _captured(changed_model),
    "model, hostile": _captured(_hostile_model),
}
QUICK = tuple(KINDS)[:3]
"""Those that import no library of models."""
if hasattr(os, "fork"):
    KINDS |= {
        "killed while it publishes": _publishing(publishing.killed),
        "killed while it replaces": _publishing(publishing.killed_replacing),
        "disk full while it publishes": _publishing(publishing.full_disk),
    }
