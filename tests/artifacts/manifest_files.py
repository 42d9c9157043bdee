"""Manifests as somebody writes them who knows the format: changed, and with the digest that belongs to the change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifacts.manifest import MANIFEST_NAME


def manifest_file(value: dict[str, Any]) -> bytes:
    """The file of a manifest; its digest is made anew where it has one."""
    if not value.get("digest"):
        return json.dumps(value).encode()
    text = json.dumps({**value, "digest": "0" * 64}).encode()
    return text.replace(b"0" * 64, hashlib.sha256(text).hexdigest().encode(), 1)


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest of the artifact `root` as its author would."""
    path = root / MANIFEST_NAME
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_bytes(manifest_file(value))
