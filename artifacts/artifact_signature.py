"""Who made an artifact: a signature over all of it, in the format of OpenSSF's model signing, by a key of the user's.

The signature is a file beside the manifest, `latentc.sig`, which the manifest does not list. It covers the manifest's
bytes and every file that the manifest lists, and through the manifest the digests of the source's weights and of the
artifact that it was rebuilt from.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from artifacts import artifact_paths
from artifacts.command_words import quoted
from artifacts.errors import LatentcError
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME
from artifacts.manifest_reading import MAX_MANIFEST, open_regular, parse_manifest
from artifacts.named_files import may_not_end
from artifacts.verification import Artifact

INSTALL = 'pip install "latentc[sign]"'
MAX_SIGNATURE = 16 << 20
"""Bytes. A signature holds a name and a digest of each file, as the manifest does."""

_CURVES = "P-256, P-384 or P-521"
_MAKE_KEYS = (
    "Make a pair: openssl ecparam -name prime256v1 -genkey -noout -out PRIVATE.pem && "
    "openssl ec -in PRIVATE.pem -pubout -out PUBLIC.pem"
)


@dataclass(frozen=True)
class Signed:
    """A signature that holds.

    Attributes:
        file: the signature.
        public_key: the key that it was checked with.
        files: how many files it covers, the manifest included.
    """

    file: Path
    public_key: Path
    files: int


def sign(artifact: Artifact, private_key: Path) -> Path:
    """Signs an artifact; a signature that it has is replaced.

    Args:
        artifact: whose files are those that its manifest lists (`artifacts.verification.examine` has no findings).
        private_key: a PEM file, not encrypted, of an elliptic curve.

    Returns:
        The signature's file, in the artifact.

    Raises:
        LatentcError: the library is not installed, the file is no such key, or the artifact cannot be written to.
    """
    library = _library("signing")
    _check_ends(private_key, "key")
    try:
        signer = library.Config().use_elliptic_key_signer(private_key=private_key)
    except OSError as error:
        raise LatentcError(f"the key {private_key} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # whatever its parsers raise
        if "encrypted" in str(error):
            raise LatentcError(
                f"the key {private_key} is encrypted; latentc asks for no password.",
                f"Decrypt it where nobody else can read it: openssl pkey -in {quoted(private_key)} -out PRIVATE.pem",
            ) from error
        raise LatentcError(
            f"{private_key} is no private key to sign with: a PEM file of the curve {_CURVES}.", _MAKE_KEYS
        ) from error
    signer.set_hashing_config(_hashes(_digests(artifact)))
    file = artifact.root / SIGNATURE_NAME
    new = file.with_name(f"{SIGNATURE_NAME}.{os.getpid()}.new")
    try:
        signer.sign(artifact.root, new)
        os.replace(new, file)
    except OSError as error:
        raise LatentcError(
            f"the signature {file} cannot be written: {error.strerror or error}.",
            "Sign a copy in a folder that you may write to.",
        ) from error
    finally:
        new.unlink(missing_ok=True)
    return file


def check(artifact: Artifact, public_key: Path, signature: Path | None = None) -> Signed:
    """Holds an artifact to its signature.

    No file but the manifest and the signature is read: that the others are those of the manifest is what made it an
    `Artifact`.

    Args:
        artifact: whose files are those that its manifest lists.
        public_key: a PEM file of an elliptic curve: of the one whom the user trusts.
        signature: its file; None for the one in the artifact.

    Raises:
        LatentcError: there is no signature, it is damaged, by another key, or of other files.
    """
    library = _library("verifying")
    file = signature or artifact.root / SIGNATURE_NAME
    _check_ends(public_key, "key")
    try:
        verifier = library.Config().use_elliptic_key_verifier(public_key=public_key)
    except OSError as error:
        raise LatentcError(f"the key {public_key} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # whatever its parsers raise
        raise LatentcError(
            f"{public_key} is no public key that signs artifacts: a PEM file of the curve {_CURVES}.",
            _MAKE_KEYS,
        ) from error
    digests = _digests(artifact)
    _check_file(artifact.root, file, own=signature is None)
    verifier.set_hashing_config(_hashes(digests))
    try:
        with redirect_stdout(io.StringIO()):  # the library prints warnings
            verifier.verify(artifact.root, file)
    except OSError as error:
        raise LatentcError(f"the signature {file} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # whatever a stranger's file makes its parsers raise
        raise _refusal(artifact.root, file, public_key, error) from error
    return Signed(file, public_key, len(digests))


def _check_ends(file: Path, role: str) -> None:
    """The library reads what it is told to, to its end."""
    try:
        fault = may_not_end(file)
    except OSError as error:
        raise LatentcError(f"the {role} {file} cannot be read: {error.strerror or error}.") from error
    if fault:
        raise LatentcError(f"the {role} {file} {fault}, not a file.", "Write it to a file, and name that.")


def _check_file(root: Path, file: Path, own: bool) -> None:
    """Whether there is a file that may be read whole. `own`: it is the artifact's, so no link either."""
    try:
        info = os.lstat(file) if own else os.stat(file)
    except FileNotFoundError:
        raise LatentcError(
            f"{root} is not signed: there is no {file}.",
            f"Name its signature: latentc verify {quoted(root)} --signature FILE --public-key PUBLIC.pem; or, if the "
            f"artifact is yours, sign it: latentc sign {quoted(root)} --key PRIVATE.pem",
        ) from None
    except OSError as error:
        raise LatentcError(f"the signature {file} cannot be read: {error.strerror or error}.") from error
    if own and artifact_paths.is_link(info):
        raise LatentcError(f"the signature {file} is a link, not a file.")
    _check_ends(file, "signature")
    if info.st_size > MAX_SIGNATURE:
        raise LatentcError(f"the signature {file} has {info.st_size} bytes; one has at most {MAX_SIGNATURE}.")


def _refusal(root: Path, file: Path, public_key: Path, error: Exception) -> LatentcError:
    words = str(error)
    again = "Fetch the artifact again from whoever signed it, and their public key."
    if words.startswith("Signature mismatch"):
        names = list(dict.fromkeys(re.findall(r"Hash mismatch for \\?'([^'\\]+)\\?'", words)))
        names += [name for part in re.findall(r"files[^:]*: ([^\"]+)\"", words) for name in part.split(", ")]
        shown = ", ".join(map(artifact_paths.shown, names[:3])) + (
            f" and {len(names) - 3} more" if len(names) > 3 else ""
        )
        return LatentcError(
            f"{root} is not what was signed: {shown or words} is not as the signature {file} has it.", again
        )
    if words.startswith("Key mismatch"):
        return LatentcError(f"{root} is signed with another key than {public_key}.", again)
    if type(error).__name__ == "InvalidSignature":
        return LatentcError(
            f"the signature {file} does not hold with the key {public_key}: it was changed, or is of another key.",
            again,
        )
    return LatentcError(
        f"the signature {file} is damaged, or no signature of OpenSSF's model signing ({type(error).__name__}).",
        again,
    )


def _digests(artifact: Artifact) -> dict[str, str]:
    """Path -> SHA-256 of every file that is signed.

    Raises:
        LatentcError: the manifest on disk is not the artifact's any more.
    """
    path = artifact.root / MANIFEST_NAME
    try:
        with open_regular(path, os.lstat(path)) as stream:
            data = stream.read(MAX_MANIFEST)
    except OSError as error:
        raise LatentcError(f"{path} cannot be read: {error.strerror or error}.") from error
    if parse_manifest(data, str(path)) != artifact.manifest:
        raise LatentcError(f"{path} was replaced while it was read.", "Run the command again.")
    digests = {file.path: file.sha256 for file in artifact.manifest.files}
    return digests | {MANIFEST_NAME: hashlib.sha256(data).hexdigest()}


def _library(module: str) -> Any:
    try:
        return import_module(f"model_signing.{module}")
    except ImportError as error:
        raise LatentcError(
            f"signatures need packages that are not installed ({error.name or 'model_signing'}).", INSTALL
        ) from error


def _hashes(digests: Mapping[str, str]) -> Any:
    """What the library asks for the digests of a model's files: those that were compared already."""
    from model_signing import hashing, manifest

    kind = manifest.SerializationType.from_args(
        {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    )
    digest = manifest.hashing.Digest  # type: ignore[attr-defined]  # the type of `new_item`'s argument

    class Known(hashing.Config):
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            items = [kind.new_item(name, digest("sha256", bytes.fromhex(digests[name]))) for name in digests]
            return manifest.Manifest(Path(model_path).name, items, kind)

    return Known()
