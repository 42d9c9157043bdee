"""Models of the hub: what is fetched of them, and whether all of it came."""

from __future__ import annotations

import json
import re
from pathlib import Path

from artifacts.hub import incomplete, refusals
from runtimes.configs import is_class_entry

CARD = "README.md"
"""What a model's owner says of it."""

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", CARD)
"""What is fetched of a model: no code, and no pickle."""

WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".onnx", ".xml", ".gguf")
"""Suffixes of files that hold weights in one way or another."""

_HEAD = 1 << 16
"""Bytes of a card that are read for its head."""


def fetch(model: str, weights: bool = True) -> Path:
    """The folder of a model of the hub in the user's cache; what is there already is not fetched again.

    Args:
        model: one that `artifacts.hub.is_hub_id`.
        weights: its weights, too; without them its configurations and vocabularies alone.

    Raises:
        LatentcError: the hub or the way to it refuses, or a part of the model is not there; the message says which.
    """
    from huggingface_hub import snapshot_download

    patterns = [pattern for pattern in PATTERNS if weights or "safetensors" not in pattern]
    with refusals(model):
        root = Path(snapshot_download(model, allow_patterns=patterns))
    if weights:
        _check_complete(model, root)
    return root


def license_of(root: Path) -> str:
    """The licence that a model's card names, as the hub has it ("apache-2.0"); empty where it names none.

    Only the lines of the card's head are read that say so: nothing else in it is parsed.
    """
    try:
        with (root / CARD).open("rb") as stream:
            text = stream.read(_HEAD).decode("utf-8-sig", "replace")
    except OSError:
        return ""
    head = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    for field in ("license", "license_name"):
        pattern = rf"^{field}:\s*(?:-\s*)?[\"']?([\w.+-]+)[\"']?\s*$"
        named = re.search(pattern, head[1], re.MULTILINE | re.ASCII) if head else None
        if named is not None and named[1] != "other":
            return named[1]
    return ""


def _check_complete(model: str, root: Path) -> None:
    """Looks for the parts of a download that was stopped: older caches do not say what belongs to a model.

    Raises:
        LatentcError: a component has no folder, or a configuration and no weights.
    """
    try:
        index = json.loads((root / "model_index.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # `compiler.source` says what is wrong with it.
    for name, entry in index.items() if isinstance(index, dict) else ():
        if not is_class_entry(entry):
            continue
        folder = root / name
        files = [file for file in folder.glob("*") if file.is_file()] if name.isidentifier() else [root]
        if not files:
            raise incomplete(model, f"'{name}' is missing in {root}")
        if (folder / "config.json").is_file() and not any(file.suffix in WEIGHTS for file in files):
            raise incomplete(
                model, f"{folder} holds no weights, or the model has none that latentc reads (safetensors)"
            )
