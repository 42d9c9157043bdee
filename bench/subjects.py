"""What a bench measures: artifacts, and the model that they were compiled from in PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from artifacts.command_words import quoted
from artifacts.errors import LatentcError, UsageError
from artifacts.hashing import file_record
from artifacts.manifest import MANIFEST_NAME, FileRecord, Manifest
from artifacts.manifest_reading import read_manifest
from artifacts.progress import Progress, silent
from artifacts.worker import serving

if TYPE_CHECKING:
    from compiler.model_source import ModelSource

PYTORCH = "PyTorch fp32"


@dataclass(frozen=True)
class Subject:
    """One thing to measure.

    Attributes:
        name: unique in a bench.
        about: for people.
        bytes: on disk.
        files: what a cold start must read from disk again.
        command: starts its worker (`artifacts.worker.Worker`).
        env: variables of the worker besides ours.
        compile_s, compile_memory: what making it took, where that was measured; seconds, bytes.
    """

    name: str
    kind: Literal["artifact", "pytorch", "peer"]
    about: Mapping[str, str]
    device: str
    bytes: int
    files: tuple[Path, ...]
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    compile_s: float | None = None
    compile_memory: int | None = None


def is_artifact(path: str) -> bool:
    """Whether there is an artifact's manifest at `path`."""
    return (Path(path) / MANIFEST_NAME).is_file()


def task_of(manifests: Sequence[Manifest], wanted: str | None) -> str:
    """The task that all artifacts have: `wanted`, or text-to-image, or the first one's first.

    Raises:
        UsageError: one of them does not have it.
    """
    first = manifests[0].pipelines
    task = wanted or ("text-to-image" if "text-to-image" in first else next(iter(first)))
    for manifest in manifests:
        if task not in manifest.pipelines:
            raise UsageError(
                f"every artifact must have the task '{task}'; one has only: {', '.join(manifest.pipelines)}."
            )
    return task


def size_of(manifests: Sequence[Manifest], wanted: tuple[int, int] | None) -> tuple[int, int] | None:
    """(width, height) to draw: `wanted`, or the one size of an artifact that has only one, or None."""
    if wanted is not None:
        return wanted
    for manifest in manifests:
        ranges = [manifest.sizes.get(side) for side in ("width", "height")]
        if all(dim is not None and dim.min == dim.max for dim in ranges):
            width, height = (dim.min for dim in ranges if dim is not None)
            return width, height
    return None


def artifact(
    path: str,
    name: str,
    device: str,
    task: str,
    compute: str = "auto",
    accelerate: str = "auto",
    strict: bool = False,
) -> Subject:
    """An artifact; its worker verifies it before it opens it.

    Args:
        device, task, compute, accelerate, strict: what `runtimes.pipeline.load` takes.

    Raises:
        LatentcError: there is no manifest, or it does not hold.
    """
    root = Path(path).absolute()
    manifest = read_manifest(root)
    options = {
        "path": str(root),
        "device": device,
        "task": task,
        "compute": compute,
        "accelerate": accelerate,
        "strict": strict,
    }
    return Subject(
        name=name,
        kind="artifact",
        about={"target": manifest.target, "precision": manifest.precision},
        device=device,
        bytes=sum(file.size for file in manifest.files),
        files=tuple(root / file.path for file in manifest.files if (root / file.path).is_file()),
        command=worker("artifact", options),
    )


def pytorch(
    source: ModelSource, manifest: Manifest, task: str, name: str = PYTORCH, **options: Any
) -> Subject:
    """The model in PyTorch, with the pipeline and the components that the artifact has.

    Args:
        options: of `bench.drawing_engines.TorchEngine`.
    """
    from bench.drawing_engines import classes
    from runtimes.trusted_classes import import_class

    pipeline: Any = import_class(manifest.pipelines[task])
    compiled = {component.name for component in manifest.components}
    optional = set(getattr(pipeline, "_optional_components", ()))
    modules = source.modules
    files = tuple(file for module in modules if module.name in compiled for file in module.weight_files)
    settings = {
        "root": str(source.root),
        "pipeline": manifest.pipelines[task],
        "absent": [m.name for m in modules if m.name not in compiled and m.name in optional],
        "classes": classes(manifest),
        "methods": [
            f"{c.name}.{m}" for c in manifest.components for m in sorted({r.method for r in c.methods})
        ],
        "variant": source.variant,
        **options,
    }
    precision = str(options.get("precision", "fp32"))
    return Subject(
        name=name,
        kind="pytorch",
        about={"target": "pytorch", "precision": precision, "compute": precision},
        device="cpu",
        bytes=sum(file.stat().st_size for file in files),
        files=files,
        command=worker("pytorch", settings),
    )


def worker(engine: str, engine_arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The command of a worker with an engine of `bench.drawing_engines`."""
    return tuple(serving("bench.drawing_engines:drawing", engine, json.dumps(dict(engine_arguments))))


def same_model(manifest: Manifest, name: str, other: Manifest, other_name: str) -> None:
    """Raises LatentcError unless two artifacts were compiled from the same weights."""
    theirs = {file.path: file for file in other.source.weights}
    common = [(file, theirs[file.path]) for file in manifest.source.weights if file.path in theirs]
    different = [mine.path for mine, their in common if mine.sha256 != their.sha256]
    if different or (not common and (manifest.source.weights or other.source.weights)):
        difference = f"{different[0]} differs" if different else "no weight file is in both"
        raise LatentcError(
            f"{name} and {other_name} must be compiled from one model; {name} is of '{manifest.source.id}', "
            f"{other_name} of '{other.source.id}': {difference}."
        )


def compiled_from(manifest: Manifest, name: str, source: ModelSource, progress: Progress = silent) -> None:
    """Raises LatentcError unless the artifact was compiled from the weight files of `source`."""
    for record in manifest.source.weights:
        if not _holds(source.root, record, progress):
            raise LatentcError(
                f"the reference must be the model that {name} was compiled from ('{manifest.source.id}'); "
                f"{record.path} of '{source.id}' is missing or has other content.",
                f"See: latentc inspect {quoted(name)}",
            )


def _holds(root: Path, record: FileRecord, progress: Progress) -> bool:
    file = root / record.path
    if not file.is_file() or file.stat().st_size != record.size:
        return False
    return file_record(root, file, progress).sha256 == record.sha256


def names(paths: Sequence[str]) -> tuple[str, ...]:
    """A short and unique name for each path: its last part, more of it where two share that, then numbers."""
    parts = [Path(path).absolute().parts for path in paths]
    short = [own[-1] for own in parts]
    whole = [
        name if short.count(name) == 1 or len(own) < 2 else "/".join(own[-2:])
        for name, own in zip(short, parts, strict=True)
    ]
    return tuple(
        name if whole.count(name) == 1 else f"{name} ({whole[: i + 1].count(name)})"
        for i, name in enumerate(whole)
    )
