"""A model's folder as its libraries may see it: checked settings and safetensors, and nothing else that lies there."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from artifacts import artifact_paths, strict_json
from artifacts.contents import Folder
from artifacts.errors import LatentcError
from runtimes.assemble import INDEX, read_index, trusted
from runtimes.configs import is_class_entry
from runtimes.pipeline_parts import part_files, passing_folder
from runtimes.trusted_classes import is_list

_WEIGHTS = ".safetensors"
_SHARDS = ".safetensors.index"


@contextmanager
def model_view(root: Path) -> Iterator[Path]:
    """A private folder with what `DiffusionPipeline.from_pretrained` reads of the model in `root`; gone at the end.

    Weights are links to the model's own files.

    Raises:
        LatentcError: the index names a class that is none of diffusers' or transformers' of a role that is loaded, or a
            file does not hold (`runtimes.configs`).
    """
    files = Folder(root)
    index = read_index(files)
    with passing_folder() as view:
        for name, entry in _components(index).items():
            if not name.isidentifier():
                raise LatentcError(f"{files.shown(INDEX)}: '{name}' is not the name of a component.")
            cls = trusted(files.shown(INDEX), name, entry)
            _add_component(view, root, name)
            for further in following(root / name) if is_list(cls) else ():
                _add_component(view, root, further.name)
        (view / INDEX).write_text(json.dumps(index), encoding="utf-8")
        yield view


def following(folder: Path) -> tuple[Path, ...]:
    """The folders of the second and further models of a list whose first is in `folder`, as diffusers saves them:
    "controlnet_1", "controlnet_2", ..."""
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(1))
    return tuple(itertools.takewhile(Path.is_dir, numbered))


@contextmanager
def component_view(folder: Path) -> Iterator[Path]:
    """As `model_view`, for the folder of one component."""
    with passing_folder() as view:
        _add_component(view, folder.parent, folder.name)
        yield view / folder.name


def _components(index: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The entries of an index that are ``[library, class]``, and not ``[None, None]``."""
    return {name: value for name, value in index.items() if is_class_entry(value)}


def _add_component(view: Path, root: Path, name: str) -> None:
    """Puts a component's settings, vocabularies and weights into `view`."""
    files = Folder(root)
    (view / name).mkdir()
    for path, data in part_files(files, name):
        if _SHARDS in path:
            _check_shards(data, root / name, path)
        destination = view / name / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_bytes(data)
    for path in files.names(name):
        if path.endswith(_WEIGHTS):
            (view / path).parent.mkdir(parents=True, exist_ok=True)
            _link(root / path, view / path)


def _check_shards(data: bytes, folder: Path, path: str) -> None:
    """Raises LatentcError where an index names a file that is not in the component's folder."""
    content = strict_json.loads(data, str(folder / path))
    shards = content.get("weight_map") if isinstance(content, dict) else None
    for name in set(shards.values()) if isinstance(shards, dict) else (None,):
        if not isinstance(name, str) or Path(name).name != name or not os.path.isfile(folder / name):
            raise LatentcError(
                f"{folder / path} names the shard {artifact_paths.shown(str(name))}, which is not in {folder}."
            )


def _link(file: Path, link: Path) -> None:
    target = os.path.realpath(file)
    for make in (
        os.symlink,
        os.link,
    ):  # Windows lets few users make the first, and other disks have not the second.
        with suppress(OSError):
            make(target, link)
            return
    shutil.copyfile(target, link)
