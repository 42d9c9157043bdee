"""Whether an artifact on disk is the one that was published, before any vendor's parser sees a byte of it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType

from artifacts import artifact_paths
from artifacts.command_words import quoted
from artifacts.errors import LatentcError
from artifacts.hashing import digest
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME, FileRecord, Manifest
from artifacts.manifest_reading import open_regular, read_manifest
from artifacts.progress import Event, Progress, silent
from artifacts.verified_before import VerifiedBefore, state

AT_ONCE = 3
"""Files that are read at the same time."""


@dataclass(frozen=True)
class Artifact:
    """An artifact that was verified: its folder (absolute) and its manifest.

    Attributes:
        states: path of each file in it -> `artifacts.verified_before.state` before the file was read.
    """

    root: Path
    manifest: Manifest
    states: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: with which file (relative to the artifact), and what."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{artifact_paths.shown(self.path)}: {self.problem}"


def findings_text(findings: Sequence[Finding]) -> str:
    """The first three of them, and how many more there are, for a message."""
    more = f"; and {len(findings) - 3} more" if len(findings) > 3 else ""
    return "; ".join(map(str, findings[:3])) + more


def verify(
    path: str | os.PathLike[str],
    *,
    deep: bool = True,
    progress: Progress = silent,
    before: VerifiedBefore | None = None,
) -> tuple[Finding, ...]:
    """Everything that is wrong with the files of the artifact at `path`; empty when nothing is.

    Each listed file must be there, be a plain file (no link of either kind, no device), and have its size
    and, with `deep`, its SHA-256. No other file may be there but a signature, which is not looked at.

    Args:
        deep: also read every file, once, and compare its SHA-256.
        progress: told of the bytes read.
        before: files that need not be read again; what is read is added.

    Raises:
        LatentcError: there is no manifest, or it does not hold, so that nothing else can be checked.
    """
    return examine(path, deep, progress, before)[1]


def examine(
    path: str | os.PathLike[str],
    deep: bool = True,
    progress: Progress = silent,
    before: VerifiedBefore | None = None,
) -> tuple[Artifact, tuple[Finding, ...]]:
    """The artifact at `path`, whatever is wrong with it, and what `verify` says of it."""
    root = Path(os.path.abspath(path))
    manifest, entries = read_manifest(root), _entries(root)
    with Comparison(root, manifest, entries, deep, before) as comparison:
        findings = _findings(manifest, entries, comparison.findings(progress))
    return Artifact(root, manifest, {path: state(info) for path, info in entries.items()}), findings


def _findings(
    manifest: Manifest, entries: Mapping[str, os.stat_result], changed: list[Finding]
) -> tuple[Finding, ...]:
    missing = [
        Finding(file.path, "is listed in the manifest and missing")
        for file in manifest.files
        if file.path not in entries
    ]
    unlisted = (Finding(name, _unlisted(info)) for name, info in _strangers(manifest, entries))
    return (*missing, *changed, *unlisted)


def open_artifact(
    path: Path | str, hashes: bool = True, progress: Progress = silent, memory: Path | None = None
) -> Artifact:
    """The artifact at `path`, if it may be run.

    As `verify`, but lets unlisted files pass where nobody would open them: a picture saved into the
    artifact's own folder is harmless, a file beside a graph is not, since parsers open siblings by name.

    Args:
        hashes: read every file, once, and compare its SHA-256; else only names, kinds and sizes are checked.
        progress: told of the bytes read.
        memory: a folder that keeps which files were compared before: those that have not changed since are not
            read again. None reads all.

    Raises:
        LatentcError: it does not hold; the message names the first files that are wrong.
    """
    with Opening(path, hashes, memory) as opening:
        return opening.finish(progress)


class Opening:
    """An artifact whose files are compared in threads while the caller does something else.

    A context manager; leaving it gives up what is not compared yet.

    Attributes:
        artifact: what `finish` returns if it holds. Until then nothing of it but the manifest is verified.
    """

    def __init__(self, path: Path | str, hashes: bool = True, memory: Path | None = None) -> None:
        """Reads the manifest and begins to read the files; the arguments are those of `open_artifact`.

        Raises:
            LatentcError: there is no manifest, or it does not hold.
        """
        root = Path(os.path.abspath(path))
        manifest, self._entries = read_manifest(root), _entries(root)
        states = {name: state(info) for name, info in self._entries.items()}
        self.artifact = Artifact(root, manifest, states)
        self._before = None if memory is None else VerifiedBefore(memory, root)
        self._comparison = Comparison(root, manifest, self._entries, hashes, self._before)

    def finish(self, progress: Progress = silent) -> Artifact:
        """The artifact, when all of its files are compared.

        Raises:
            LatentcError: it does not hold; the message names the first files that are wrong.
        """
        root, manifest = self.artifact.root, self.artifact.manifest
        read_from = {PurePosixPath(file.path).parts[0] for file in manifest.files if "/" in file.path}
        wrong = [
            finding
            for finding in _findings(manifest, self._entries, self._comparison.findings(progress))
            if not _harmless(finding, manifest, read_from)
        ]
        if self._before is not None:
            self._before.save()
        if wrong:
            raise LatentcError(
                f"{root} is not what was compiled: {findings_text(wrong)}.",
                f"See everything with: latentc verify {quoted(root)} (or compile the model again).",
            )
        return self.artifact

    def __enter__(self) -> Opening:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._comparison.close()


def _harmless(finding: Finding, manifest: Manifest, read_from: set[str]) -> bool:
    """An unlisted file outside the folders that loaders read, which also read the JSON files above those."""
    name = PurePosixPath(finding.path)
    unlisted = all(file.path != finding.path for file in manifest.files)
    return (
        unlisted and name.parts[0] not in read_from and not (len(name.parts) == 1 and name.suffix == ".json")
    )


def _entries(root: Path) -> dict[str, os.stat_result]:
    try:
        return artifact_paths.entries(root)
    except OSError as error:
        raise LatentcError(f"{root} cannot be read: {error}.") from error


def _strangers(manifest: Manifest, entries: Mapping[str, os.stat_result]) -> list[tuple[str, os.stat_result]]:
    listed = {MANIFEST_NAME, *(file.path for file in manifest.files)}
    return [
        (name, info)
        for name, info in entries.items()
        if name not in listed and not (_is_never_listed(PurePosixPath(name)) and stat.S_ISREG(info.st_mode))
    ]


def _is_never_listed(path: PurePosixPath) -> bool:
    return path.name in artifact_paths.LITTER or str(path) == SIGNATURE_NAME


def _unlisted(info: os.stat_result) -> str:
    return "is not listed in the manifest" + (" and is a link" if artifact_paths.is_link(info) else "")


class Comparison:
    """The listed files that are there, compared with the manifest in threads, `AT_ONCE` at a time, the first first.

    A context manager; leaving it gives up what is not compared yet.
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        entries: Mapping[str, os.stat_result],
        deep: bool,
        before: VerifiedBefore | None,
    ) -> None:
        """Begins; the arguments are those of `verify` and what was found at `root`."""
        self._root, self._before = root, before
        self._total, self._read = sum(file.size for file in manifest.files), 0
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._problems: dict[str, str | Future[str]] = {}
        # Made without threads: they start with what is submitted.
        self._pool = ThreadPoolExecutor(AT_ONCE, "verifying")
        for file in manifest.files:
            info = entries.get(file.path)
            if info is None:
                continue
            problem = kind_fault(info) or _size(info.st_size, file)
            if problem or not deep:
                self._problems[file.path] = problem
            elif before is not None and before.knows(file.path, info, file.sha256):
                self._problems[file.path] = ""
                self._advance(file.size)
            else:
                self._problems[file.path] = self._pool.submit(self._compare, file, info)

    def findings(self, progress: Progress = silent) -> list[Finding]:
        """What is wrong with the files, when all are compared.

        Args:
            progress: told of the bytes read, from this thread.
        """
        findings = []
        for path, problem in self._problems.items():
            while not isinstance(problem, str):
                try:
                    problem = problem.result(timeout=0.1)
                except FutureTimeoutError:
                    self._tell(progress)
            if problem:
                findings.append(Finding(path, problem))
        self._tell(progress)
        return findings

    def close(self) -> None:
        """Gives up what is not compared yet; twice is harmless."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _compare(self, file: FileRecord, info: os.stat_result) -> str:
        problem = _content(self._root / file.path, file, info, self._advance)
        if self._before is not None and not problem:
            self._before.add(file.path, info, file.sha256)
        return problem

    def _advance(self, count: int) -> None:
        if self._stop.is_set():
            raise InterruptedError("nobody waits for this file any more")
        with self._lock:
            self._read += count

    def _tell(self, progress: Progress) -> None:
        progress(Event("verifying", self._read, self._total, "bytes"))

    def __enter__(self) -> Comparison:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def file_fault(root: Path, file: FileRecord, info: os.stat_result) -> str:
    """What is wrong with one file, which is read whole; empty where nothing is. `info` is of `os.lstat`."""
    return (
        kind_fault(info)
        or _size(info.st_size, file)
        or _content(root / file.path, file, info, lambda _: None)
    )


def kind_fault(info: os.stat_result) -> str:
    """Why it is no plain file with one name; empty where it is one. `info` is what `os.lstat` says of it."""
    if artifact_paths.is_link(info):
        return "is a link, not a file"
    if not stat.S_ISREG(info.st_mode):
        return "is not a regular file"
    if info.st_nlink > 1:
        return f"is a hard link: the same file has {info.st_nlink} names, and may be changed under another"
    return ""


def _size(size: int, file: FileRecord) -> str:
    return "" if size == file.size else f"has {size} bytes, the manifest says {file.size}"


def _content(path: Path, file: FileRecord, info: os.stat_result, advance: Callable[[int], None]) -> str:
    try:
        with open_regular(path, info) as stream:
            sha256, size = digest(stream, file.size, advance)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if problem := _size(size, file):
        return problem
    return "" if sha256 == file.sha256 else f"has SHA-256 {sha256}, the manifest says {file.sha256}"
