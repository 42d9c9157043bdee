"""What goes with an artifact to the people who use it: a signature, a bill of materials, a place on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError
from artifacts.progress import Progress, silent
from latentc.api import keywords
from latentc.api.keywords import File

if TYPE_CHECKING:
    from artifacts.verify import Artifact


def sign(artifact: File, key: File, *, progress: Progress = silent) -> Path:
    """Signs an artifact in the format of OpenSSF's model signing, as `latentc sign` does; reads every file once.

    Args:
        key: the private key, a PEM file of an elliptic curve (P-256, P-384, P-521), not encrypted.

    Returns:
        The signature: `latentc.sig` in the artifact.

    Raises:
        LatentcError: a file is not the one that was compiled, the key is none, or model-signing is not installed.
    """
    from artifacts import signature

    with keywords.reporting(progress) as reported:
        return signature.sign(_whole(artifact, reported), Path(key))


def _whole(path: File, progress: Progress) -> Artifact:
    """The artifact at `path`, each file of which is read and compared.

    Raises:
        LatentcError: a file is not the one that was compiled, or is not listed.
    """
    from artifacts.verify import examine

    artifact, findings = examine(path, progress=progress)
    if findings:
        more = f"; and {len(findings) - 3} more" if len(findings) > 3 else ""
        raise LatentcError(
            f"{artifact.root} is not what was compiled: {'; '.join(map(str, findings[:3]))}{more}.",
            f"See everything with: latentc verify {artifact.root}",
        )
    return artifact
