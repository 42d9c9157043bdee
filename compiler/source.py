"""The model that a name means: a built-in model, a diffusers folder, a single file or one of the hub; with other
components and embeddings in it where they are asked for. `open_model` is the entry.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from artifacts import strict_json
from artifacts.contents import Folder
from artifacts.errors import LatentcError, UsageError
from artifacts.hub import is_hub_id
from artifacts.manifest import MANIFEST_NAME, LeftOut, ModelSpec
from compiler import additions, hub_models
from compiler.model_source import ComponentSource, ModelSource
from compiler.origins import folder_files, single_file
from runtimes.assemble import INDEX
from runtimes.configs import is_class_entry

BUILTIN_MODELS = "latentc.models"
"""Entry-point group of built-in models: name -> "module:object", a folder."""


def builtin_models() -> dict[str, str]:
    """Name -> "module:object" of the models that come with latentc."""
    return {entry.name: entry.value for entry in metadata.entry_points(group=BUILTIN_MODELS)}


def local_folder(model: str) -> Path | None:
    """The folder of a built-in model or of a path; None where it is neither. The hub is not asked."""
    for entry in metadata.entry_points(group=BUILTIN_MODELS):
        if entry.name == model:
            return Path(entry.load())
    return Path(model) if os.path.isdir(model) else None  # which takes names that no file can have


def open_model(model: str | ModelSpec) -> ModelSource:
    """The model that `model` names: a built-in name, a diffusers folder, a single file or a hub id.

    Raises:
        LatentcError: there is no such model, or it cannot be read.
        UsageError: a component that it does not have, or options that only a single file takes.
    """
    spec = ModelSpec(model=model) if isinstance(model, str) else model
    source = replace(_opened(spec), id=spec.model, spec=spec)
    source = _of_known_code(additions.with_components(source, spec.components))
    for embedding in spec.embeddings:
        source = additions.with_embedding(source, embedding)
    source = additions.with_spare_tokens(source, spec.spare_tokens)
    return additions.with_ip_adapters(source, spec.ip_adapters)


def _of_known_code(source: ModelSource) -> ModelSource:
    """The source without what no code that latentc runs makes (a safety checker of a library of its own)."""
    foreign = source.foreign
    left_out = tuple(
        LeftOut(
            name=component.name,
            class_name=component.class_name,
            reason=f"it is optional and of '{component.library}', whose code latentc does not run",
        )
        for component in foreign
    )
    return replace(additions.without(source, (c.name for c in foreign)), left_out=left_out)


def _opened(spec: ModelSpec) -> ModelSource:
    model = spec.model
    if os.path.isfile(model):  # which takes names that no file can have
        return _open_file(Path(model), spec)
    if spec.config:
        raise UsageError(f"--config is for a model that is a single file; {model} is none.")
    folder = local_folder(model)
    if folder is not None:
        return _open_folder(model, folder, "")
    if model.startswith((".", "/", "~")) or not is_hub_id(model):
        built_in = ", ".join(builtin_models()) or "none"
        raise LatentcError(
            f"there is no model '{model}': no such folder, no built-in model (there are: {built_in}) and no hub id.",
            "Give a folder with a model_index.json, a single file, or a hub id such as owner/name.",
        )
    root = hub_models.fetch(model)
    return _open_folder(model, root, root.name)


def _open_file(file: Path, spec: ModelSpec) -> ModelSource:
    """A checkpoint of a whole pipeline in one file; what is not in it comes with its configuration."""
    checkpoint = single_file.Checkpoint(file)
    if spec.config:
        base = _open_folder(spec.config, Path(spec.config), "")
    else:
        repository = single_file.repository(checkpoint)
        try:
            root = hub_models.fetch(repository, weights=False)
            base = _open_folder(repository, root, root.name)
        except LatentcError as error:
            raise LatentcError(
                f"{file.name} is a model of the kind of {repository}, whose configuration is not here: "
                f"{error.message}",
                "Give a diffusers folder of a model of that kind; its weights are not read: --config FOLDER",
            ) from error
    left_out = set(single_file.left_out()) - set(spec.components)
    base = additions.without(base, left_out)
    parts = []
    for component in base.components:
        # A component that --component replaces is not looked for.
        if component.is_module and component.name not in spec.components:
            component = _from_checkpoint(component, checkpoint, file)
        parts.append(component)
    return replace(base, id=spec.model, components=tuple(parts))


def _from_checkpoint(
    component: ComponentSource, checkpoint: single_file.Checkpoint, file: Path
) -> ComponentSource:
    if checkpoint.has(component.cls):
        return replace(component, elsewhere=single_file.Converted(checkpoint, component.name))
    try:
        folder_files.weight_files(component.folder, component.name)
    except LatentcError:
        raise LatentcError(
            f"{file.name} holds no weights of '{component.name}' ({component.class_name}).",
            f"Give them: --component {component.name}=FOLDER (or =none, where the pipeline can do without)",
        ) from None
    return component


def _open_folder(model: str, root: Path, revision: str) -> ModelSource:
    index = root / INDEX
    if not index.exists():
        raise LatentcError(
            f"{root} has no {INDEX}, so it is not a diffusers pipeline.",
            "Give the folder above its unet/ or transformer/ folder.",
        )
    if (root / MANIFEST_NAME).is_file():
        raise LatentcError(
            f"{root} is an artifact, compiled already: it holds graphs, and no weights of PyTorch.",
            "Compile the model that it was made from, which latentc inspect names; or make its files again: --rebuild",
        )
    return index_source(model, root, revision)


def index_source(model: str, root: Path, revision: str = "") -> ModelSource:
    """What a folder's index describes, of a model or of an artifact. Weights are not looked for.

    Args:
        model: what was asked for.

    Raises:
        LatentcError: the index names no pipeline of diffusers.
    """
    index = root / INDEX
    content = strict_json.loads(Folder(root).read(INDEX), str(index))
    pipeline = content.get("_class_name") if isinstance(content, dict) else None
    if isinstance(pipeline, list) and pipeline:
        raise LatentcError(
            f"{index}: '_class_name' is {pipeline[-1]!r}, a class in the model's own Python ({pipeline[0]!r}), "
            "which is not run.",
            "latentc compiles pipelines that diffusers itself has. Name one of those there, if its components fit.",
        )
    if not isinstance(pipeline, str):
        raise LatentcError(f"{index} names no pipeline class (_class_name).")
    components: list[ComponentSource] = []
    config: dict[str, Any] = {}
    for name, value in content.items():
        if name.startswith("_"):
            continue
        if is_class_entry(value):
            if not name.isidentifier():  # It names a folder, here and in the artifact.
                raise LatentcError(f"{index}: '{name}' is not the name of a component.")
            components.append(ComponentSource(name, value[0], value[1], root / name))
        elif not (isinstance(value, list) and value == [None, None]):
            config[name] = value
    return ModelSource(
        model,
        root,
        revision,
        pipeline,
        tuple(components),
        config,
        Folder(root),
        ModelSpec(model=model),
    )
