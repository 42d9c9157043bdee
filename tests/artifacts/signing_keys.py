"""Pairs of keys to sign with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization


def pem(path: Path, key: Any, password: bytes | None = None) -> tuple[Path, Path]:
    """The files of a private and its public key."""
    private, public = path.with_suffix(".pem"), path.with_suffix(".pub.pem")
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public
