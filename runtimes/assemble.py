"""Diffusers' own pipeline class, put together from shells and the artifact's schedulers and tokenizers."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from artifacts import strict_json
from artifacts.contents import Contents, contents
from artifacts.errors import LatentcError
from runtimes.configs import check_class_name, is_class_entry
from runtimes.pipeline_parts import is_part, make_part, making
from runtimes.trusted_classes import component_class, is_own, pipeline_class

INDEX = "model_index.json"


def assemble(root: Path | Contents, class_path: str, shells: Mapping[str, Any]) -> Any:
    """The pipeline that an index (``model_index.json``) describes: each part by its own class, from its own files.

    Args:
        root: the artifact's or the model's files.
        class_path: of a `diffusers.DiffusionPipeline`.
        shells: component name -> what stands for its module.

    Raises:
        LatentcError: the index names a class that is not trusted, or a module that is not compiled.
    """
    cls: Any = pipeline_class(class_path)
    files = contents(root)
    index = read_index(files)
    parameters = inspect.signature(cls.__init__).parameters
    if not set(parameters) & set(shells):
        raise LatentcError(
            f"{cls.__name__} has none of the components that are compiled ({', '.join(shells) or 'none'}).",
            "Compile the model again.",
        )
    arguments: dict[str, Any] = {}
    for name, parameter in list(parameters.items())[1:]:
        optional = name in cls._optional_components
        if parameter.default is inspect.Parameter.empty or optional or name in shells:
            arguments[name] = _component(files, index, name, optional, cls, shells)
        elif is_class_entry(index.get(name)):
            if not files.names(name):
                continue  # diffusers does not save what a constructor has a default for, and names it nevertheless
            arguments[name] = _component(files, index, name, True, cls, shells)
        elif name in index:
            arguments[name] = index[name]
    with making(cls, files.shown(INDEX)):
        return cls(**arguments)


def required_components(classes: Iterable[type]) -> frozenset[str]:
    """What the constructors of pipelines cannot do without."""
    return frozenset(
        name
        for cls in classes
        for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]  # type: ignore[misc]
        if parameter.default is inspect.Parameter.empty
        and name not in getattr(cls, "_optional_components", ())
    )


def check_components(pipelines: Mapping[str, str], task: str, components: Iterable[str]) -> None:
    """Whether the artifact's pipelines are made of what was compiled for them.

    Args:
        pipelines: task -> class path.
        task: the one that is loaded; others are only looked at for what it does not take.
        components: those that are compiled.

    Raises:
        LatentcError: a component is none of any pipeline's.
    """
    left = set(components)
    for class_path in dict.fromkeys((pipelines[task], *pipelines.values())):
        if left:
            cls: Any = pipeline_class(class_path)
            left -= set(inspect.signature(cls.__init__).parameters)
    if left:
        raise LatentcError(
            f"the artifact's pipelines ({', '.join(pipelines.values())}) have no component {', '.join(sorted(left))}, "
            "which is compiled.",
            "Compile the model again.",
        )


def read_index(files: Contents) -> dict[str, Any]:
    """The index of an artifact or a model.

    Raises:
        LatentcError: it is none, or names no class.
    """
    index = strict_json.loads(files.read(INDEX), files.shown(INDEX))
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise LatentcError(f"{files.shown(INDEX)} is not a diffusers index.", "See: latentc verify ARTIFACT")
    check_class_name(index["_class_name"], files.shown(INDEX))
    return index


def absent_components(root: Path, pipeline_class: type) -> dict[str, None]:
    """What diffusers must be told to leave out: the components that the index of `root` has as null.

    Without it, `from_pretrained` takes those that the class does not list as optional for missing (Stable Diffusion 3
    without its T5).
    """
    files = contents(root)
    index = strict_json.loads(files.read(INDEX), files.shown(INDEX))
    if not isinstance(index, dict):
        return {}
    parameters = inspect.signature(pipeline_class.__init__).parameters  # type: ignore[misc]
    return {name: None for name in parameters if index.get(name) == [None, None]}


def _component(
    files: Contents, index: Mapping[str, Any], name: str, optional: bool, cls: Any, shells: Mapping[str, Any]
) -> Any:
    """One component: a shell, or a scheduler, tokenizer or processor; None where the index says so.

    A module that was not compiled: an optional one (a safety checker) is left out, as None is in diffusers.
    """
    entry = index.get(name)
    if isinstance(entry, list) and entry[:1] != [None]:
        part_class = trusted(files.shown(INDEX), name, entry)
        if not _is_module(part_class):
            return shells[name] if name in shells else make_part(files, name, part_class)
    elif entry is not None and not isinstance(entry, list):
        raise LatentcError(f"{files.shown(INDEX)}: '{name}' is {entry!r}, not [library, class].")
    if name in shells:
        return shells[name]
    if isinstance(entry, list) and entry[:1] == [None]:
        return None
    if optional:
        return None
    raise LatentcError(
        f"{cls.__name__} needs '{name}', which is not compiled (compiled: {', '.join(shells)}).",
        "Compile the model with the --task that needs it.",
    )


def trusted(index: str, name: str, entry: Any) -> type:
    """The class that an index entry ``[library, class]`` names, of a trusted library or pipeline."""
    if not is_class_entry(entry):
        raise LatentcError(f"{index}: '{name}' is {entry!r}, not [library, class].")
    library, class_name = entry
    cls = component_class(library, class_name)
    if cls is None or not is_own(cls):
        raise LatentcError(
            f"{index}: '{name}' is {library}.{class_name}, which is not a class of a trusted library."
        )
    if not (_is_module(cls) or is_part(cls)):
        raise LatentcError(
            f"{index}: '{name}' is a {class_name}; only schedulers, tokenizers and processors are loaded."
        )
    return cls


def _is_module(cls: type) -> bool:
    import torch

    return issubclass(cls, torch.nn.Module)
