"""Artifacts of the hub: fetched once for each commit into the user's cache, verified, and opened from there.

They do not lie in the hub's own cache, whose files are links; an artifact's are plain files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from artifacts.cache import cache_dir
from artifacts.disk import remove_tree, write_cached
from artifacts.errors import LatentcError
from artifacts.hub import HubUnreachable, is_hub_id, refusals
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME
from artifacts.manifest_reading import read_manifest
from artifacts.progress import Event, Progress, silent
from artifacts.verification import examine, findings_text

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TELL = "Tell its owner, who can put it there again: latentc push OUT owner/name"


def located(name: str | os.PathLike[str], progress: Progress = silent) -> Path:
    """The folder of the artifact that a user names: a path, or else ``owner/name[@REVISION]`` of the hub.

    Only a text can name an artifact of the hub, and only where no such folder is here.

    Raises:
        LatentcError: as `fetch`. A path that leads nowhere is no error yet.
    """
    if isinstance(name, str) and not os.path.lexists(name) and _is_of_hub(name):
        return fetch(name, progress)
    return Path(name)


def short_name(name: str) -> str:
    """What the artifact that a user names is called: as its folder is, or as its repository on the hub."""
    if os.path.lexists(name) or not _is_of_hub(name):
        return Path(name).absolute().name
    return name.partition("@")[0].rpartition("/")[2]


def _is_of_hub(name: str) -> bool:
    return not name.startswith((".", "/", "~", "\\")) and is_hub_id(name.partition("@")[0])


def fetch(name: str, progress: Progress = silent) -> Path:
    """The folder of an artifact of the hub; a commit that is here already is not fetched again.

    The manifest comes first, and of the rest only what it lists, and the signature. A download that was stopped is
    continued. The folder appears when every file is what the manifest says.

    Args:
        name: ``owner/name``, or ``owner/name@REVISION``: a branch, a tag or a commit. A whole commit that is here is
            not asked for; anything else is asked of the hub at each call, and is what it was last where the hub cannot
            be reached.

    Raises:
        LatentcError: the hub or the way to it refuses, it is no artifact, or a file is not the one that was compiled.
    """
    repository, _, revision = name.partition("@")
    home = cache_dir() / "artifacts" / repository.replace("/", "--")
    commit = revision if _COMMIT.fullmatch(revision) else _commit(name, repository, revision, home)
    folder = home / commit
    if folder.is_dir():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f"{commit}.lock"):
        if not folder.is_dir():
            _download(name, repository, commit, home / f"{commit}.part", progress)
            os.rename(home / f"{commit}.part", folder)
    return folder


def _commit(name: str, repository: str, revision: str, home: Path) -> str:
    """The commit that a branch or a tag is at; the last that was seen, where nobody answers."""
    from huggingface_hub import HfApi

    note = home / "revisions" / (quote(revision, safe="") or "main")
    try:
        with refusals(name):
            commit = HfApi().model_info(repository, revision=revision or None).sha
    except HubUnreachable:
        if note.is_file() and _COMMIT.fullmatch(seen := note.read_text(encoding="utf-8")):
            return seen
        raise
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise LatentcError(
            f"the hub does not say which commit '{name}' is at.", "Name one: owner/name@COMMIT"
        )
    write_cached(note, commit.encode())
    return commit


def _download(name: str, repository: str, commit: str, folder: Path, progress: Progress) -> None:
    """Makes `folder` the artifact, whole and verified."""
    progress(Event(f"downloading {name}", 0, None))
    if not _file(name, repository, commit, folder, MANIFEST_NAME):
        raise LatentcError(
            f"'{name}' on the hub is no latentc artifact: there is no {MANIFEST_NAME} in it.",
            f"Make one of it: latentc compile {repository} OUT --target openvino",
        )
    files = read_manifest(folder).files
    total, done = sum(file.size for file in files), 0
    for file in files:
        if not _file(name, repository, commit, folder, file.path):
            raise LatentcError(
                f"'{name}' on the hub is not whole: there is no {file.path} in it, which its manifest lists.",
                _TELL,
            )
        done += file.size
        progress(Event(f"downloading {name}", done, total, "bytes"))
    _file(name, repository, commit, folder, SIGNATURE_NAME)
    remove_tree(folder / ".cache")  # what the library keeps to continue a download
    _, findings = examine(folder, progress=progress)
    if findings:
        remove_tree(folder)  # else the next call would find the same
        raise LatentcError(f"'{name}' on the hub is not what was compiled: {findings_text(findings)}.", _TELL)


def _file(name: str, repository: str, commit: str, folder: Path, path: str) -> bool:
    """Fetches one file, or the rest of it; whether the hub has it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with refusals(name):
        try:
            hf_hub_download(repository, path, revision=commit, local_dir=folder)
        except RemoteEntryNotFoundError:
            return False
    return True
