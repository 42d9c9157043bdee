"""What goes with an artifact to the people who use it: a signature, a bill of materials, a place on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.argument_types import typed
from artifacts.command_words import quoted
from artifacts.errors import LatentcError, UsageError
from artifacts.foreseen import foreseen
from artifacts.progress import Event, Progress, silent
from latentc.api import keywords
from latentc.api.keywords import File

if TYPE_CHECKING:
    from artifacts.verification import Artifact


@typed
def sign(artifact: File, key: File, *, progress: Progress = silent) -> Path:
    """Signs an artifact in the format of OpenSSF's model signing, as `latentc sign` does; reads every file once.

    Args:
        key: the private key, a PEM file of an elliptic curve (P-256, P-384, P-521), not encrypted.

    Returns:
        The signature: `latentc.sig` in the artifact.

    Raises:
        LatentcError: a file is not the one that was compiled, the key is none, or model-signing is not installed.
    """
    from artifacts import artifact_signature

    with keywords.reporting(progress) as reported:
        return artifact_signature.sign(_whole(artifact, reported), Path(key))


@typed
def bom(artifact: File, output: File | None = None) -> str:
    """An artifact's bill of materials, as `latentc bom` writes it: CycloneDX 1.6, as JSON.

    Args:
        output: a file to write it to, too.

    Raises:
        LatentcError: there is no artifact, the file cannot be written, or cyclonedx-python-lib is not installed.
    """
    from artifacts.manifest_reading import read_manifest
    from latentc.bill_of_materials import bill_of_materials
    from latentc.whole_file import whole_file

    with foreseen():
        text = bill_of_materials(read_manifest(Path(artifact).absolute()))
        if output is not None:
            with whole_file(Path(output)) as partial:
                partial.write_bytes(text.encode())
    return text


@dataclass(frozen=True)
class Pushed:
    """Where an artifact was put.

    Attributes:
        id: ``owner/name``.
        commit: the hub's commit that holds it: `latentc.load(f"{id}@{commit}")` opens exactly this one.
        url: for a browser.
    """

    id: str
    commit: str
    url: str


@typed
def push(
    artifact: File,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    progress: Progress = silent,
) -> Pushed:
    """Puts an artifact on the Hugging Face hub in one commit, as `latentc push` does; reads every file once.

    What goes there are the files that the manifest lists, the manifest, its signature where there is one, and a model
    card (README.md) that is made from the manifest. Files that the hub has already are not sent again, so that a push
    that was stopped is continued by the same call.

    Args:
        name: ``owner/name``; the repository is made where there is none.
        private: make it for its owner alone; one that is there stays as it is.
        revision: the branch, which is made where there is none; None for the repository's main one.

    Raises:
        UsageError: `name` is no ``owner/name``.
        LatentcError: a file is not the one that was compiled, or the hub or the way to it refuses.
    """
    from artifacts.hub import is_hub_id, refusals
    from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME

    if not is_hub_id(name):
        raise UsageError(f"'{name}' is no name on the hub.", "Name it: owner/name")
    from huggingface_hub import CommitOperationAdd, HfApi

    from latentc.model_card import model_card

    with keywords.reporting(progress) as reported:
        opened = _whole(artifact, reported)
        paths = [MANIFEST_NAME, *(file.path for file in opened.manifest.files)]
        signed = (opened.root / SIGNATURE_NAME).is_file()
        if signed:
            paths.append(SIGNATURE_NAME)
        card = model_card(opened.manifest, name, signed=signed)
        reported(Event(f"uploading to {name}", 0, None))
        with refusals(name, "write to"):
            api = HfApi()
            api.create_repo(name, private=private or None, exist_ok=True)
            if revision is not None:
                api.create_branch(name, branch=revision, exist_ok=True)
            commit = api.create_commit(
                name,
                [
                    CommitOperationAdd("README.md", card.encode()),
                    *(CommitOperationAdd(path, opened.root / path) for path in paths),
                ],
                commit_message=f"{opened.manifest.source.id} compiled for {opened.manifest.target} by latentc",
                revision=revision,
            )
    return Pushed(name, commit.oid, f"{api.endpoint}/{name}")


def _whole(path: File, progress: Progress) -> Artifact:
    """The artifact at `path`, each file of which is read and compared.

    Raises:
        LatentcError: a file is not the one that was compiled, or is not listed.
    """
    from artifacts.verification import examine, findings_text

    artifact, findings = examine(path, progress=progress)
    if findings:
        raise LatentcError(
            f"{artifact.root} is not what was compiled: {findings_text(findings)}.",
            f"See everything with: latentc verify {quoted(artifact.root)}",
        )
    return artifact
