"""In which files two artifacts differ, and what their manifests say of the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from artifacts import artifact_paths
from artifacts.manifest import Manifest


@dataclass(frozen=True)
class FileDifference:
    """A file that two artifacts do not have alike; `problem` says how."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{artifact_paths.shown(self.path)} {self.problem}"


@dataclass(frozen=True)
class FieldDifference:
    """A value that two manifests do not have alike.

    Attributes:
        field: where it stands ("toolchain.onnx", "graphs.unet.precision").
        first, second: the values, as JSON has them; None where a manifest has no such field.
    """

    field: str
    first: Any
    second: Any


def file_differences(first: Manifest, second: Manifest) -> tuple[FileDifference, ...]:
    """The files that the manifests list and that differ, by name, size or SHA-256; no file is read."""
    ours, theirs = ({file.path: file for file in manifest.files} for manifest in (first, second))
    differences = []
    for path in sorted(ours.keys() | theirs.keys()):
        if path not in theirs:
            differences.append(FileDifference(path, "is only in the first"))
        elif path not in ours:
            differences.append(FileDifference(path, "is only in the second"))
        elif ours[path].size != theirs[path].size:
            differences.append(
                FileDifference(path, f"has {ours[path].size} bytes and {theirs[path].size} bytes")
            )
        elif ours[path].sha256 != theirs[path].sha256:
            differences.append(FileDifference(path, "has the same size and another content"))
    return tuple(differences)


def field_differences(first: Manifest, second: Manifest) -> tuple[FieldDifference, ...]:
    """What else the manifests say differently: the model, the options, the tools, what was measured, the time."""
    ours, theirs = (
        dict(_leaves("", manifest.model_dump(mode="json", exclude={"files", "digest"})))
        for manifest in (first, second)
    )
    return tuple(
        FieldDifference(field, ours.get(field), theirs.get(field))
        for field in dict.fromkeys((*ours, *theirs))
        if ours.get(field) != theirs.get(field)
    )


def _leaves(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that holds no other; items of lists by their own name where they have one."""
    if isinstance(value, list):
        names = [_name(item) or str(i) for i, item in enumerate(value)]
        distinct = len(set(names)) == len(names)
        value = {names[i] if distinct else str(i): item for i, item in enumerate(value)}
    if not isinstance(value, dict):
        yield field, value
        return
    for name, inner in value.items():
        yield from _leaves(f"{field}.{name}" if field else name, inner)


def _name(item: Any) -> str:
    """What tells an item of a list from the others, in a manifest."""
    if not isinstance(item, dict):
        return ""
    return next((str(item[key]) for key in ("folder", "path", "name", "key", "compute") if item.get(key)), "")
