"""A component that is not the model's own: another folder, or a file of weights."""

from __future__ import annotations

import json
from pathlib import Path

from artifacts.errors import LatentcError
from compiler.origins import single_file
from compiler.origins.weight_files import WeightFiles
from runtimes.trusted_classes import component_class

Own = tuple[str, str, Path]
"""Library, class name and folder of the component that is replaced."""


def other(name: str, place: Path, own: Own | None) -> tuple[str, str, Path, WeightFiles | None]:
    """Library, class name, folder of the configuration, and weights (None: those of the folder).

    Args:
        place: a component's folder, or a file of weights for the model's own class and configuration.

    Raises:
        LatentcError: there is no such place, or it does not say what it is.
    """
    if place.is_dir():
        library, class_name = _class_in(name, place, own)
        return library, class_name, place, None
    if not place.is_file():
        raise LatentcError(
            f"--component {name}: there is no folder and no file {place}.",
            f"Give a component's folder, a file of its weights, or none: --component {name}=none",
        )
    if own is None:
        raise LatentcError(
            f"--component {name}: the model says nothing of '{name}', so {place.name} needs a configuration.",
            f"Give a folder that has a config.json, too: --component {name}=FOLDER",
        )
    library, class_name, folder = own
    return library, class_name, folder, weights_of(name, place)


def weights_of(name: str, file: Path) -> WeightFiles:
    """The weights in a file, by its format."""
    return single_file.Converted(single_file.Checkpoint(file), name)


# Which file of a folder names a component's class, under which key, and whose class that is.
_NAMES = (
    ("config.json", "_class_name", "diffusers"),
    ("config.json", "architectures", "transformers"),
    ("scheduler_config.json", "_class_name", "diffusers"),
    ("preprocessor_config.json", "image_processor_type", "transformers"),
    ("preprocessor_config.json", "feature_extractor_type", "transformers"),
    ("tokenizer_config.json", "tokenizer_class", "transformers"),
)


def _class_in(name: str, folder: Path, own: Own | None) -> tuple[str, str]:
    """Library and class that a folder's configuration names; the model's own for a folder that names none."""
    readable = False
    for file, key, library in _NAMES:
        try:
            config = json.loads((folder / file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise LatentcError(f"{folder / file} cannot be read: {error}") from error
        readable = True
        value = config.get(key) if isinstance(config, dict) else None
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str) and component_class(library, value) is not None:
            return library, value
    if (folder / "config.json").is_file():
        raise LatentcError(
            f"{folder / 'config.json'} names no class (_class_name or architectures) that is here."
        )
    if own is not None and not (folder / "model_index.json").exists() and (readable or any(folder.iterdir())):
        return own[0], own[1]
    raise LatentcError(
        f"--component {name}: {folder} has no config.json.",
        f"Give the component's own folder, e.g. {folder.name}/{name}.",
    )
