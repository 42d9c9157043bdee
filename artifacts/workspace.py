"""The one place where a compile writes: parts that survive a killed run, and OUT by one rename."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from artifacts import artifact_paths
from artifacts.disk import free_bytes, is_full, remove_tree, sync_file, sync_folder, sync_folders, tree_bytes
from artifacts.errors import LatentcError, UsageError
from artifacts.finished_parts import Layout, Part, check_key, has_parts, is_same, read_part, write_part
from artifacts.foreseen import foreseen, full_disk, full_folder, message, written_file
from artifacts.hashing import file_record
from artifacts.lock import OutLock
from artifacts.manifest import FileRecord
from artifacts.progress import Progress, silent
from artifacts.publish import MakeExtra, MakeManifest, check_out, check_parents, recover, stage, swap
from artifacts.units import size


@dataclass
class Building:
    """A part under construction: write files into `folder`, and JSON about them into `meta`.

    `part` is None until the `with` block has ended without an exception.
    """

    folder: Path
    meta: dict[str, Any] = field(default_factory=dict)
    part: Part | None = None


class Workspace:
    """The work folder of one OUT, locked while it is entered.

    A run that fails or is killed leaves its finished parts there, and nothing at OUT. The next run for the
    same OUT finds them by their content key. Once OUT is published the work folder is gone.
    """

    def __init__(self, out: Path | str, force: bool = False, progress: Progress = silent) -> None:
        """
        Args:
            out: where the artifact will appear; its parent folders are made when they are missing.
            force: replace an artifact that is there (see `publish.check_out` for what is never replaced).
            progress: told of files being hashed, in bytes.
        """
        self.out = Path(os.path.abspath(out))
        self._force = force
        self._progress = progress
        self._known: dict[str, Part] = {}
        self._published = False

    def __enter__(self) -> Workspace:
        """Takes the lock, undoes what a killed run left half done and looks whether OUT may be written.

        Raises:
            UsageError: OUT exists (without `force`), or is something that is never replaced.
            LatentcError: another compile is writing OUT, or the disk is full or may not be written.
        """
        with foreseen():
            self._enter()
        return self

    def _enter(self) -> None:
        if not self.out.name:
            check_out(self.out, self._force)
        check_parents(self.out)
        self._layout = Layout(self.out)
        work = self._layout.work
        try:
            info = os.lstat(work)
        except FileNotFoundError:
            check_out(self.out, self._force)  # else only with the lock: a killed run may have left OUT aside
        else:
            if not stat.S_ISDIR(info.st_mode) or artifact_paths.is_link(info):
                reason = f"{work} is in the way: latentc keeps its work folder there."
                raise UsageError(reason, "Move it elsewhere.")
        self._lock = OutLock(self.out, work)
        with self._undone(lambda: None):
            self._lock.acquire()
        with self._undone(self._leave):
            recover(self._layout)
            check_out(self.out, self._force)
            self._layout.parts.mkdir(exist_ok=True)
            self._layout.build.mkdir()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """Frees the lock, and removes the work folder unless a later run has a use for it."""
        layout = self._layout
        # The artifact is whole by now, or the reason why not is on its way up: that a file cannot be removed
        # must not hide either. It stays, and the next run tries again.
        keep = not self._published
        with suppress(OSError):
            keep &= has_parts(layout) or layout.old.exists() or layout.stage.exists()
        for leftover in () if keep else (layout.old, layout.parts):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.rmtree(layout.build, ignore_errors=True)
        if not keep:
            with suppress(OSError):
                layout.journal.unlink(missing_ok=True)
        self._lock.release(remove=not keep)

    def finished(self, key: str) -> Part | None:
        """The part with this key that an earlier run, or this one, finished.

        Its files are read and compared with their SHA-256, once a run; a part that differs is removed.
        """
        check_key(key)
        if key in self._known:
            return self._known[key]
        home = self._layout.part(key)
        part = read_part(home)
        if part is None or part.key != key or not is_same(part, self._progress):
            remove_tree(home)
            return None
        self._known[key] = part
        return part

    @contextmanager
    def build(self, key: str, needs: int | None = None) -> Iterator[Building]:
        """Builds the part with this key: the block writes its files into an empty folder.

        When the block ends the files are flushed, hashed and kept as a finished part; when it raises they are
        removed.

        Args:
            key: `content_key` of everything that shapes the files, and of the folder they go to: two folders
                of one artifact cannot share a part.
            needs: bytes that will be written at the least; refused at once when the disk has not as many.

        Raises:
            LatentcError: the disk is full, or would be.
            ValueError: the block wrote no file, or something that is no plain file.
        """
        check_key(key)
        if needs is not None and needs > free_bytes(self.out):
            raise self._too_little(size(needs))
        home = self._layout.building(key)
        building = Building(home / "files")
        remove_tree(home)
        self._known.pop(key, None)
        with self._undone(lambda: shutil.rmtree(home, ignore_errors=True), home, needs):
            building.folder.mkdir(parents=True)
            yield building
            files = self._records(building.folder)
            meta = json.loads(json.dumps(building.meta, allow_nan=False))
            write_part(home, key, files, meta)
            sync_folders(home)
            remove_tree(self._layout.part(key))
            os.rename(home, self._layout.part(key))
            sync_folder(self._layout.parts)
        building.part = self._known[key] = Part(key, self._layout.part(key) / "files", files, meta)
        building.folder = building.part.folder

    def _records(self, folder: Path) -> tuple[FileRecord, ...]:
        entries = artifact_paths.entries(folder)
        if not entries:
            raise ValueError("the part has no files")
        for name, info in entries.items():
            if not stat.S_ISREG(info.st_mode) or artifact_paths.is_link(info) or info.st_nlink > 1:
                raise ValueError(f"{name} is not a plain file; an artifact holds nothing else")
            if fault := artifact_paths.fault(name):
                raise ValueError(f"{name!r} {fault}")
            sync_file(folder / name)
        return tuple(file_record(folder, folder / name, self._progress) for name in entries)

    def publish(
        self,
        parts: Mapping[str, str],
        manifest: MakeManifest,
        extra: MakeExtra | Path | None = None,
    ) -> Path:
        """Makes OUT of finished parts and loose files, and returns its path. Nothing can be built afterwards.

        Args:
            parts: folder in the artifact ("unet") -> key of a finished part. No key twice.
            manifest: is given the records of all files, sorted by path, and returns the manifest with exactly
                those in `files`. It may be called and OUT still not appear.
            extra: what writes the loose files (`model_index.json`, `scheduler/`, …) into the folder it is
                given, or a folder to copy them from. They may lie in the parts' folders, under other names.

        Raises:
            UsageError: OUT may not be replaced (any more).
            LatentcError: a class in the manifest is not of a trusted library, the disk is full, or the system
                refuses the rename. The parts are kept and OUT is what it was.
            ValueError: names clash, a part is not finished or used twice, or the manifest lists other files.
        """
        by_folder: dict[str, Part] = {}
        for name, key in parts.items():
            part = self.finished(key)
            if part is None:
                raise ValueError(f"the part for {name!r} is not finished")
            by_folder[name] = part
        if len(set(parts.values())) != len(parts):
            raise ValueError("one part is to be put into two folders; put the folder's name into its key")
        make_extra = _copier(extra) if isinstance(extra, Path) else extra
        layout = self._layout
        with self._undone(lambda: recover(layout)):
            stage(layout, by_folder, make_extra, manifest, self._progress)
            swap(layout, self._force)
        self._known.clear()
        self._published = True
        return self.out

    @contextmanager
    def _undone(
        self, undo: Callable[[], None], place: Path | None = None, needs: int | None = None
    ) -> Iterator[None]:
        """Calls `undo` when the block raises. What the system refused is a message, that of a full disk with its size.

        Args:
            place: where the block writes: how much is there tells how much fitted.
            needs: bytes that the block was going to write at the least.
        """
        try:
            yield
        except BaseException as error:
            translated = message(error) if isinstance(error, Exception) else None
            full = self._full_folder(error) if translated is not None and is_full(error) else None
            fitted = tree_bytes(place) if full is not None and place is not None else 0
            # What a disk refuses, too, the next run undoes.
            with nullcontext() if translated is None else suppress(OSError):
                undo()
            if translated is None:
                raise
            if full == self.out.parent:
                at_least = size(needs) if needs else f"more than {size(fitted)}" if fitted else "more"
                translated = self._too_little(at_least)
            elif full is not None:
                translated = full_disk(full)
            raise translated from error

    def _full_folder(self, error: BaseException) -> Path:
        """The folder whose disk is full: OUT's, or another that libraries write to, whose errors seldom say where."""
        home = self.out.parent
        file = written_file(error)
        full = Path(file).parent if file else full_folder((home,))
        return home if full is None or full.is_relative_to(home) else full

    def _too_little(self, needed: str) -> LatentcError:
        full = full_disk(self.out.parent, needed)
        return LatentcError(
            f"{full.message} {self.out} was not touched.",
            "Free some space and run the command again (finished parts are kept), or name an OUT elsewhere.",
        )


def _copier(source: Path) -> MakeExtra:
    def copy(destination: Path) -> None:
        shutil.copytree(source, destination, dirs_exist_ok=True, symlinks=True)

    return copy
