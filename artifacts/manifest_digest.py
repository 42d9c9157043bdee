"""The digest that a manifest carries of itself: the SHA-256 of its file, in which the digest's own digits are zeros."""

from __future__ import annotations

import hashlib

from artifacts.manifest import DIGEST_SCHEMA, Manifest

_ZEROS = b"0" * 64


def with_digest(manifest: Manifest) -> bytes:
    """The file `latentc.json` of a manifest, UTF-8, with its digest in it."""
    blank = manifest.model_copy(update={"schema_version": DIGEST_SCHEMA, "digest": _ZEROS.decode()})
    # The digest is among the first fields: no other value of zeros comes before it.
    text = blank.model_dump_json(indent=2).encode()
    return text.replace(_ZEROS, hashlib.sha256(text).hexdigest().encode(), 1)


def digest_fault(data: bytes, schema_version: object, digest: object) -> str:
    """What is wrong with the digest in the manifest `data`, or nothing.

    The digest covers each byte, white space too: a reader that goes by it needs no second opinion on what two texts
    of one value are.

    Args:
        schema_version, digest: as they stand in the manifest; those of earlier schemas have none.
    """
    if schema_version != DIGEST_SCHEMA:
        return "" if digest in (None, "") else f"schema version {schema_version!r} has no digest"
    if not isinstance(digest, str) or len(digest) != len(_ZEROS) or not digest.isascii():
        return "the digest is missing, or is no SHA-256"
    digits = digest.encode()
    if data.count(digits) != 1 or hashlib.sha256(data.replace(digits, _ZEROS)).hexdigest() != digest:
        return "its content is not what the digest in it was made of"
    return ""
