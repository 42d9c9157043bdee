"""Diffusers' own pipeline class, put together from shells and the artifact's schedulers and tokenizers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifacts import strict_json
from artifacts.errors import LatentcError, UsageError
from runtimes.classes import component_class, import_subclass

INDEX = "model_index.json"


def assemble(root: Path, pipeline_class: str, shells: Mapping[str, Any]) -> Any:
    """The pipeline, as its `from_pretrained` makes it from the artifact's ``model_index.json``.

    Args:
        root: the artifact.
        pipeline_class: class path of a `diffusers.DiffusionPipeline`.
        shells: component name -> what stands for its module.

    Raises:
        LatentcError: the index names a class that is not trusted, or a module that is not compiled.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    cls: Any = import_subclass(pipeline_class, DiffusionPipeline, "pipeline")
    file = root / INDEX
    index = strict_json.loads(file.read_bytes(), str(file)) if file.is_file() else None
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise LatentcError(f"{file} is not a diffusers index.", f"See: latentc verify {root}")
    wanted = {
        name
        for name in inspect.signature(cls.__init__).parameters
        if isinstance(index.get(name), list) and index[name][:1] != [None]
    }
    # A module that was not compiled: an optional one (a safety checker) is left out, as None is in diffusers.
    given = {name: shells[name] for name in wanted if name in shells}
    for name in sorted(wanted):
        if _is_module(_trusted(file, name, index[name])) and name not in shells:
            if name not in cls._optional_components:
                raise LatentcError(
                    f"{cls.__name__} needs '{name}', which is not compiled (compiled: {', '.join(shells)}).",
                    "Compile the model with the --task that needs it.",
                )
            given[name] = None
    given |= _absent(index, cls)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return cls.from_pretrained(str(root), local_files_only=True, **given)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise LatentcError(f"{cls.__name__} cannot be put together from {root}: {error}") from error
    finally:
        if shown:
            logging.enable_progress_bar()


def absent_components(root: Path, pipeline_class: type) -> dict[str, None]:
    """What diffusers must be told to leave out: the components that the index of `root` has as null.

    Without it, `from_pretrained` takes those that the class does not list as optional for missing (Stable Diffusion 3
    without its T5).
    """
    file = root / INDEX
    index = strict_json.loads(file.read_bytes(), str(file))
    return _absent(index, pipeline_class) if isinstance(index, dict) else {}


def _absent(index: Mapping[str, Any], pipeline_class: Any) -> dict[str, None]:
    return {
        name: None
        for name in inspect.signature(pipeline_class.__init__).parameters
        if index.get(name) == [None, None]
    }


def _trusted(file: Path, name: str, entry: Any) -> type:
    """The class that an index entry ``[library, class]`` names, of a trusted library or pipeline."""
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
        raise LatentcError(f"{file}: '{name}' is {entry!r}, not [library, class].")
    library, class_name = entry
    found = component_class(library, class_name)
    if found is None:
        raise LatentcError(
            f"{file}: '{name}' is {library}.{class_name}, which is not a class of a trusted library."
        )
    if not (_is_module(found) or _is_plain(found)):
        raise LatentcError(
            f"{file}: '{name}' is a {class_name}; only schedulers, tokenizers and processors are loaded."
        )
    return found


def _is_module(cls: type) -> bool:
    import torch

    return issubclass(cls, torch.nn.Module)


def _is_plain(cls: type) -> bool:
    """Whether the class is loaded from JSON and vocabulary files alone."""
    from diffusers.configuration_utils import ConfigMixin
    from transformers import (
        FeatureExtractionMixin,
        ImageProcessingMixin,
        PreTrainedTokenizerBase,
        ProcessorMixin,
    )

    kinds = (
        ConfigMixin,
        FeatureExtractionMixin,
        ImageProcessingMixin,
        PreTrainedTokenizerBase,
        ProcessorMixin,
    )
    return issubclass(cls, kinds)


def compatible_schedulers(pipeline: Any) -> list[str]:
    """Class names of the schedulers that can take the place of the pipeline's own."""
    scheduler = getattr(pipeline, "scheduler", None)
    found = getattr(scheduler, "compatibles", [])
    return sorted(
        {c.__name__ for c in found} | ({type(scheduler).__name__} if scheduler is not None else set())
    )


def make_scheduler(pipeline: Any, name: str) -> Any:
    """A scheduler of class `name` with the configuration of the pipeline's own.

    Raises:
        UsageError: it is not one of `compatible_schedulers`.
    """
    import diffusers

    names = compatible_schedulers(pipeline)
    if name not in names:
        there = ", ".join(names) or "none: this pipeline has no scheduler to replace"
        raise UsageError(
            f"'{name}' cannot replace the scheduler of {type(pipeline).__name__} (it can be: {there})."
        )
    return getattr(diffusers, name).from_config(pipeline.scheduler.config)
