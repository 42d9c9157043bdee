"""How finished parts become OUT by one rename, and how any interruption of that is undone.

Nothing is copied: the parts' files are moved into `stage/`, which then is renamed to OUT. Every step leaves a
state that `recover` can tell from what is on disk:

    stage/ exists                   not published: the files listed in journal.json go back to their parts
    old/ and stage/, but no OUT     stopped between the two renames that replace OUT: old/ becomes OUT again
    old/ but no stage/              published: old/ is what was replaced, and goes
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from artifacts import artifact_paths, strict_json
from artifacts.disk import remove_tree, sync_file, sync_folder, sync_folders, write_synced
from artifacts.errors import LatentcError, UsageError
from artifacts.finished_parts import Layout, Part, drop_unfinished, has_parts, read_part
from artifacts.foreseen import foreseen
from artifacts.hashing import file_record
from artifacts.lock import OutLock
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME, FileRecord, Manifest
from artifacts.manifest_digest import with_digest
from artifacts.manifest_reading import check_manifest, parse_manifest, read_manifest
from artifacts.progress import Progress

MakeManifest = Callable[[tuple[FileRecord, ...]], Manifest]
MakeExtra = Callable[[Path], None]


def require_out(out: Path | str, force: bool) -> None:
    """Whether a finished artifact may take the name `out`, before hours of work.

    Raises:
        UsageError: it may not, as `check_out` and `check_parents` say.
    """
    with foreseen():
        place = Path(os.path.abspath(out))
        check_parents(place)
        check_out(place, force)


def check_parents(out: Path) -> None:
    """Raises UsageError where a folder above `out` is none or an artifact, and the system's error where `out` is no
    name."""
    with suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(out)
    parent = next((p for p in out.parents if os.path.lexists(p)), None)
    if parent is not None and not parent.is_dir():
        raise UsageError(f"{out} cannot be made: {parent} is a file, not a folder.", "Name another OUT.")
    require_outside(out, "Name another OUT.")


def require_outside(path: Path, hint: str = "Name a place outside of it.") -> None:
    """Raises UsageError where `path` lies in an artifact's folder: with a file more, that would be damaged."""
    place = Path(os.path.realpath(path.parent))
    for folder in (place, *place.parents):
        if os.path.lexists(folder / MANIFEST_NAME):
            raise UsageError(
                f"{path} lies in the artifact {folder}, which holds its own files only: it would be damaged.",
                hint,
            )


def check_out(out: Path, force: bool) -> None:
    """Whether a finished artifact may take the name `out`. An empty folder there is as good as none.

    With `force` an artifact is replaced, but only one that holds nothing besides its own files: nothing that
    latentc did not write is ever removed.

    Raises:
        UsageError: it may not.
    """
    another = "Name another OUT."
    if not out.name or Path.cwd().is_relative_to(out):
        raise UsageError(f"{out} is the current folder, or above it: it cannot be replaced.", another)
    if not os.path.lexists(out):
        return
    if artifact_paths.is_link(os.lstat(out)):
        raise UsageError(f"{out} is a link, not a folder.", another)
    if not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder.", another)
    if os.path.ismount(out):
        raise UsageError(
            f"{out} is the root of a mounted disk: it cannot be replaced.", "Name a folder inside it."
        )
    entries = artifact_paths.entries(out)
    if not entries and not any(out.iterdir()):
        return
    if MANIFEST_NAME not in entries:
        raise UsageError(
            f"{out} is not empty and no latentc artifact; latentc never removes such a folder.", another
        )
    if not force:
        raise UsageError(f"{out} exists.", "Replace it with --force, or name another OUT.")
    own = _listed(out)
    strangers = [name for name in entries if name not in own and Path(name).name not in artifact_paths.LITTER]
    if strangers:
        names = ", ".join(map(artifact_paths.shown, strangers[:3])) + (", …" if len(strangers) > 3 else "")
        raise UsageError(
            f"{out} cannot be replaced: it holds files that latentc did not write ({names}).",
            "Move them elsewhere, or name another OUT.",
        )


def _listed(out: Path) -> set[str]:
    """What the manifest in `out` lists, itself and its signature included.

    Read leniently: it may be of another version.
    """
    try:
        value = strict_json.loads((out / MANIFEST_NAME).read_bytes(), MANIFEST_NAME)
        return {MANIFEST_NAME, SIGNATURE_NAME, *(str(file["path"]) for file in value["files"])}
    except (OSError, LatentcError, KeyError, TypeError) as error:
        raise UsageError(
            f"{out} cannot be replaced: its {MANIFEST_NAME}, which says what is latentc's, cannot be read.",
            "Remove the folder yourself, or name another OUT.",
        ) from error


def stage(
    layout: Layout,
    parts: Mapping[str, Part],
    extra: MakeExtra | None,
    make_manifest: MakeManifest,
    progress: Progress,
) -> None:
    """Makes the future OUT in `layout.stage`, hashed and flushed.

    Args:
        parts: folder in the artifact -> the part whose files go there.
        extra: writes the loose files into the folder it is given; it may use the parts' folders too.
        make_manifest: is given the records of all files and returns the manifest with exactly those.

    Raises:
        ValueError: two parts or files want one name, or the manifest lists other files.
        LatentcError: the manifest is not one that could be opened.
    """
    write_synced(layout.journal, json.dumps({name: part.key for name, part in parts.items()}).encode())
    layout.stage.mkdir()
    if extra is not None:
        extra(layout.stage)
    files = _loose_files(layout.stage, progress)
    for name, part in parts.items():
        files += [record.model_copy(update={"path": f"{name}/{record.path}"}) for record in part.files]
    _check_names(record.path for record in files)
    files.sort(key=lambda record: record.path)
    manifest = make_manifest(tuple(files))
    if sorted(manifest.files, key=lambda record: record.path) != files:
        raise ValueError("the manifest does not list the files that it was given")
    write_manifest(layout.stage, manifest)
    for name, part in parts.items():
        for record in part.files:
            _move(part.folder / record.path, layout.stage / name / record.path)
    sync_folders(layout.stage)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest into a folder, in place of one that is there.

    Raises:
        LatentcError: it is not one that could be opened.
    """
    text = with_digest(manifest)
    check_manifest(parse_manifest(text, MANIFEST_NAME), MANIFEST_NAME)
    write_synced(folder / MANIFEST_NAME, text)


def replace_manifest(root: Path, old: Manifest, new: Manifest) -> None:
    """Gives a published artifact another manifest, of the same files, by one rename.

    Args:
        root: the artifact's folder.
        old: the manifest that the new one was made of.

    Raises:
        LatentcError: the artifact has another manifest by now, a compile is writing it, or the system refuses.
        ValueError: the new one lists other files.
    """
    if new.files != old.files:
        raise ValueError("another manifest of an artifact lists the same files")
    layout = Layout(Path(os.path.abspath(root)))
    lock = OutLock(layout.out, layout.work)
    lock.acquire()
    try:
        if read_manifest(layout.out) != old:
            raise LatentcError(
                f"{layout.out} was compiled anew meanwhile; what was measured is of the one before.",
                "Run the same command again.",
            )
        remove_tree(layout.stage)
        layout.stage.mkdir()
        write_manifest(layout.stage, new)
        os.replace(layout.stage / MANIFEST_NAME, layout.out / MANIFEST_NAME)
        sync_folder(layout.out)
    except OSError as error:
        raise LatentcError(
            f"{layout.out / MANIFEST_NAME} cannot be written: {error.strerror or error}.",
            "Make the artifact's folder writable, or copy it to one that is.",
        ) from error
    finally:
        with suppress(OSError):
            remove_tree(layout.stage)
        lock.release(remove=not has_parts(layout))


def _loose_files(root: Path, progress: Progress) -> list[FileRecord]:
    records = []
    for name, info in artifact_paths.entries(root).items():
        if artifact_paths.is_link(info) or info.st_nlink > 1:
            raise ValueError(f"{name} is a link; an artifact holds plain files")
        sync_file(root / name)
        records.append(file_record(root, root / name, progress))
    return records


def _check_names(names: Iterable[str]) -> None:
    names = [*names, MANIFEST_NAME]
    for name in names:
        if fault := artifact_paths.fault(name):
            raise ValueError(f"{name!r} {fault}")
    for first, second in artifact_paths.clashes(names):
        raise ValueError(f"{first!r} and {second!r} are one file on some systems")


def _move(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    os.rename(source, destination)


def swap(layout: Layout, force: bool) -> None:
    """Renames the staged folder to OUT, moving a previous artifact aside first.

    Raises:
        LatentcError: OUT may not be replaced (any more), or the system refuses; `recover` undoes the rest.
    """
    out = layout.out
    check_out(out, force)
    try:
        if os.path.lexists(out):
            if any(out.iterdir()):
                os.rename(out, layout.old)
            elif os.name == "nt":  # elsewhere a rename takes an empty folder's place
                out.rmdir()
        os.rename(layout.stage, out)
    except OSError as error:
        raise LatentcError(
            f"the artifact is finished, but cannot be put at {out}: {error.strerror or error}.",
            "Close whatever uses that folder and run the same command again: the finished parts are kept.",
        ) from error
    sync_folder(out.parent)


def recover(layout: Layout) -> None:
    """Brings OUT and the work folder back to a state between two compiles, whatever stopped the last one.

    Raises:
        LatentcError: the previous artifact lies in the work folder and something else took its place.
    """
    if os.path.lexists(layout.old):
        if not os.path.lexists(layout.stage):
            remove_tree(layout.old)
        elif not os.path.lexists(layout.out):
            os.rename(layout.old, layout.out)
        else:
            raise LatentcError(
                f"a compile was stopped while it replaced {layout.out}, and something else is there now. "
                f"The artifact that it replaced is in {layout.old}.",
                "Move one of the two elsewhere and run the command again.",
            )
    if os.path.lexists(layout.stage):
        for name, key in _journal(layout).items():
            part = read_part(layout.part(key))
            for record in part.files if part else ():
                staged, home = layout.stage / name / record.path, layout.part(key) / "files" / record.path
                if os.path.lexists(staged) and not os.path.lexists(home):
                    _move(staged, home)
        remove_tree(layout.stage)
    layout.journal.unlink(missing_ok=True)
    drop_unfinished(layout)


def _journal(layout: Layout) -> dict[str, str]:
    try:
        value = strict_json.loads(layout.journal.read_bytes(), str(layout.journal))
    except (OSError, LatentcError):
        return {}
    return {
        name: key for name, key in value.items() if not artifact_paths.fault(name) and isinstance(key, str)
    }
