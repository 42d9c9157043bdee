"""Published architectures: the configs of public models, one JSON file each in `bench/project/models`.

Copied from the config.json files of the models that "source" names; keys that only say which library version wrote the
file are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "models"


@dataclass(frozen=True)
class Part:
    """One module of a pipeline.

    Attributes:
        name: its folder and its key in model_index.json.
        library: "diffusers" or "transformers".
        class_name: the class there.
        config: what its config.json says.
        key_prefix: what published weight files put before the class's own key names. transformers 5 dropped
            "text_model." from CLIPTextModel; checkpoints have it, and loaders rename on the way.
    """

    name: str
    library: str
    class_name: str
    config: Mapping[str, Any]
    key_prefix: str = ""


@dataclass(frozen=True)
class Architecture:
    """A pipeline.

    Attributes:
        source: the published model that the configs are of.
        pipeline: the diffusers class.
        parts: its modules.
        tokenizers: name -> class in transformers.
        scheduler: class in diffusers, and its config.
        index: further entries of model_index.json.
    """

    source: str
    pipeline: str
    parts: tuple[Part, ...]
    tokenizers: Mapping[str, str]
    scheduler: tuple[str, Mapping[str, Any]]
    index: Mapping[str, Any] = field(default_factory=dict)


def read(file: Path) -> Architecture:
    """The architecture that a file of `FOLDER` describes."""
    content = json.loads(file.read_text(encoding="utf-8"))
    name, config = content["scheduler"]
    parts = tuple(Part(**part) for part in content["parts"])
    return Architecture(**{**content, "parts": parts, "scheduler": (name, config)})


PUBLISHED: Mapping[str, Architecture] = {file.stem: read(file) for file in sorted(FOLDER.glob("*.json"))}

TINY: Mapping[str, Architecture] = {
    file.stem: read(file) for file in sorted((FOLDER / "tiny").glob("*.json"))
}
"""The same kinds of modules with few and narrow layers."""
