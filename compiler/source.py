"""Where a model is: its pipeline, its components, and where each of their weights is stored.

Nothing here reads a weight. Only safetensors are opened, and of them only the headers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx_ir as ir

from artifacts import paths, strict_json
from artifacts.contents import Folder
from artifacts.errors import LatentcError, UsageError
from artifacts.hub import is_hub_id
from artifacts.safetensors_header import Entry, read_header
from compiler import hub
from runtimes.assemble import INDEX
from runtimes.classes import component_class, is_list, is_own
from runtimes.configs import LIST_KEY, cleaned, read_config
from targets.graph.weights import Stored

BUILTIN_MODELS = "latentc.models"
"""Entry-point group of built-in models: name -> "module:object", a folder."""

# Libraries that a component may come from. Components of other libraries are a pipeline's own code, which
# is not run; names like "stable_diffusion" are modules of diffusers.pipelines.
_LIBRARIES = ("diffusers", "transformers")

_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

# Ends of the names of files that hold a graph with its weights, and whose they are.
_COMPILED = {
    ".xml": "OpenVINO",
    ".onnx": "ONNX",
    ".engine": "TensorRT",
    ".plan": "TensorRT",
    ".mlpackage": "Core ML",
    ".mlmodelc": "Core ML",
    ".gguf": "GGUF",
}

# What diffusers and transformers call a component's weights, most exact first. A variant's name stands before
# the suffix ("model.fp16.safetensors").
_STEMS = ("diffusion_pytorch_model", "model")

_DTYPES: dict[str, ir.DataType] = {
    "F64": ir.DataType.DOUBLE,
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "I64": ir.DataType.INT64,
    "I32": ir.DataType.INT32,
    "I16": ir.DataType.INT16,
    "I8": ir.DataType.INT8,
    "U8": ir.DataType.UINT8,
    "BOOL": ir.DataType.BOOL,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,
    "F8_E5M2": ir.DataType.FLOAT8E5M2,
}


@dataclass(frozen=True)
class ComponentSource:
    """One entry of model_index.json.

    Attributes:
        name: the pipeline's name for it ("unet").
        library: "diffusers", "transformers" or a module of `diffusers.pipelines`.
        class_name: its class there.
        folder: its folder; it need not exist for components without files.
    """

    name: str
    library: str
    class_name: str
    folder: Path

    @cached_property
    def cls(self) -> type:
        """The class itself.

        Raises:
            LatentcError: the installed libraries do not have it.
        """
        found = component_class(self.library, self.class_name)
        if found is not None:
            return found
        if self.library in _LIBRARIES:
            raise LatentcError(
                f"'{self.name}' is a {self.class_name}, which the installed {self.library} does not have.",
                f"If it is newer: pip install -U {self.library}. If it is older, name today's in model_index.json.",
            )
        raise LatentcError(
            f"'{self.name}' is a {self.class_name} of '{self.library}'; latentc runs code of diffusers and "
            "transformers only, and the installed diffusers has no such class.",
            "Upgrade it: pip install -U diffusers",
        )

    @property
    def is_module(self) -> bool:
        """Whether it is a torch module, so something to compile."""
        import torch

        return issubclass(self.cls, torch.nn.Module)

    @cached_property
    def members(self) -> tuple[ComponentSource, ...]:
        """The models of a component that is a list of models (several ControlNets), in order; empty for others.

        diffusers saves them in folders of their own: "controlnet", "controlnet_1", "controlnet_2", ...
        """
        if not is_list(self.cls):
            return ()
        folders = [self.folder]
        while (following := self.folder.with_name(f"{self.folder.name}_{len(folders)}")).is_dir():
            folders.append(following)
        return tuple(
            ComponentSource(folder.name, "diffusers", _class_of(folder), folder) for folder in folders
        )

    @cached_property
    def config(self) -> bytes:
        """Its config.json as it may be used and copied: without what names code or files elsewhere. That of a list of
        models holds theirs.

        Raises:
            LatentcError: it cannot be read, or names a kernel or a model to load.
        """
        if self.members:
            configs = [json.loads(member.config) for member in self.members]
            return (json.dumps({LIST_KEY: configs}, indent=2) + "\n").encode()
        file = "config.json"
        return cleaned(Folder(self.folder).read(file), str(self.folder / file), verified=False)

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """The safetensors files that diffusers or transformers would read, shards in order.

        Raises:
            LatentcError: there are none, or only pickles.
        """
        if self.members:
            return tuple(file for member in self.members for file in member.weight_files)
        return _weight_files(self.folder, self.name)

    @property
    def variant(self) -> str | None:
        """ "model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors" -> "fp16"."""
        parts = self.weight_files[0].name.split(".")
        return parts[1].split("-0")[0] if len(parts) == 3 else None

    @cached_property
    def stored(self) -> Mapping[str, Stored]:
        """Every tensor of the weight files by its key there.

        Raises:
            LatentcError: a file is damaged, a key stands in two shards, or a dtype is not supported.
        """
        found: dict[str, Stored] = {}
        for file in self.weight_files:
            for entry in read_header(file):
                if entry.key in found:
                    raise LatentcError(f"'{entry.key}' stands in both {found[entry.key].file} and {file}.")
                found[entry.key] = _stored(file, entry)
        return found


@dataclass(frozen=True)
class ModelSource:
    """A diffusers folder.

    Attributes:
        id: what the user named.
        root: the folder.
        revision: the hub's commit, or empty.
        pipeline: the class name in model_index.json.
        components: every component that is there (entries that are null are left out).
        config: the other entries of model_index.json, given to the pipeline as they are.
    """

    id: str
    root: Path
    revision: str
    pipeline: str
    components: tuple[ComponentSource, ...]
    config: Mapping[str, Any]

    @property
    def license(self) -> str:
        """What the model's card names ("apache-2.0"); empty where it names none."""
        return hub.license_of(self.root)

    @property
    def modules(self) -> tuple[ComponentSource, ...]:
        """The components that are torch modules."""
        return tuple(c for c in self.components if c.is_module)

    def component(self, name: str) -> ComponentSource:
        """The component of that name, which is there."""
        return next(c for c in self.components if c.name == name)

    @property
    def variant(self) -> str | None:
        """The variant in the names of its weight files ("fp16"), if they have one."""
        return min((c.variant for c in self.modules if c.variant is not None), default=None)

    def pipeline_class(self) -> type:
        """The class of model_index.json.

        Raises:
            LatentcError: the installed diffusers does not have it.
        """
        import diffusers

        cls = getattr(diffusers, self.pipeline, None)
        if cls is None:
            raise LatentcError(
                f"{self.id} is a {self.pipeline}, which diffusers {diffusers.__version__} does not have.",
                "Upgrade it: pip install -U diffusers",
            )
        check_pipeline(cls, self.pipeline, str(self.root / INDEX))
        return cls  # type: ignore[no-any-return]


def check_pipeline(cls: Any, name: str, index: str) -> None:
    """Raises LatentcError unless `cls`, which `index` calls `name`, is a pipeline that says what it is made of."""
    import inspect

    from diffusers import DiffusionPipeline

    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if not (isinstance(cls, type) and issubclass(cls, DiffusionPipeline) and is_own(cls)):
        what = "which is no pipeline of diffusers"
    elif any(p.kind in unnamed for p in inspect.signature(cls).parameters.values()):
        what = "which does not say what it is made of"
    else:
        return
    raise LatentcError(
        f"{index}: '_class_name' is {name!r}, {what}.",
        "Name the pipeline's own class, e.g. StableDiffusionPipeline.",
    )


def builtin_models() -> dict[str, str]:
    """Name -> "module:object" of the models that come with latentc."""
    return {entry.name: entry.value for entry in metadata.entry_points(group=BUILTIN_MODELS)}


def local_folder(model: str) -> Path | None:
    """The folder of a built-in model or of a path; None where it is neither. The hub is not asked."""
    for entry in metadata.entry_points(group=BUILTIN_MODELS):
        if entry.name == model:
            return Path(entry.load())
    return Path(model) if os.path.isdir(model) else None  # which takes names that no file can have


def open_model(model: str) -> ModelSource:
    """The model that `model` names: a built-in name, a diffusers folder, or a hub id.

    Raises:
        LatentcError: there is no such model, or it cannot be read.
        UsageError: it is a file.
    """
    folder = local_folder(model)
    if folder is not None:
        return _open_folder(model, folder, "")
    if os.path.exists(model):
        raise UsageError(
            f"{model} is a file; a model is a diffusers folder, which has a model_index.json.",
            "Convert it once: StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)",
        )
    if model.startswith((".", "/", "~")) or not is_hub_id(model):
        known = ", ".join(builtin_models()) or "none"
        raise LatentcError(
            f"there is no model '{model}': no such folder, no built-in model (there are: {known}) and no hub id.",
            "Give a folder with a model_index.json, or a hub id such as owner/name.",
        )
    root = hub.fetch(model)
    return _open_folder(model, root, root.name)


def _open_folder(model: str, root: Path, revision: str) -> ModelSource:
    index = root / INDEX
    if not index.exists():
        raise LatentcError(
            f"{root} has no {INDEX}, so it is not a diffusers pipeline.",
            "Give the folder above its unet/ or transformer/ folder.",
        )
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
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value):
            if not name.isidentifier():  # It names a folder, here and in the artifact.
                raise LatentcError(f"{index}: '{name}' is not the name of a component.")
            components.append(ComponentSource(name, value[0], value[1], root / name))
        elif not (isinstance(value, list) and value == [None, None]):
            config[name] = value
    return ModelSource(model, root, revision, pipeline, tuple(components), config)


def _class_of(folder: Path) -> str:
    """The class that a model's own configuration names."""
    data = Folder(folder).read("config.json")
    name = read_config(data, str(folder / "config.json"), verified=False).get("_class_name")
    if not isinstance(name, str):
        raise LatentcError(f"{folder / 'config.json'} names no class (_class_name).")
    return name


def _weight_files(folder: Path, name: str) -> tuple[Path, ...]:
    for stem in _STEMS:
        for index in sorted(
            folder.glob(f"{stem}*.safetensors.index*.json"), key=lambda p: (len(p.name), p.name)
        ):
            return _shards(index)
        plain = sorted(
            (p for p in folder.glob(f"{stem}*.safetensors") if "-of-" not in p.name),
            key=lambda p: (len(p.name), p.name),
        )
        if plain:
            return (plain[0],)
    names = sorted(p.name for p in folder.glob("*"))
    compiled = [(n, kind) for n in names for suffix, kind in _COMPILED.items() if n.endswith(suffix)]
    if compiled:
        raise LatentcError(
            f"the weights of '{name}' are in a model that was exported already ({compiled[0][0]}: {compiled[0][1]}); "
            "latentc compiles models of PyTorch.",
            "Give the model that it was exported from: a diffusers folder or hub id with safetensors.",
        )
    pickles = [n for n in names if n.endswith(_PICKLES)]
    if pickles:
        raise LatentcError(
            f"the weights of '{name}' are a pickle ({pickles[0]}), which can run any code when it is read; "
            "latentc reads safetensors only.",
            "Convert once, where you trust the file: from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
        )
    raise LatentcError(
        f"{folder} holds no weights: expected {_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors."
    )


def _shards(index: Path) -> tuple[Path, ...]:
    content = strict_json.loads(Folder(index.parent).read(index.name), str(index))
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not (isinstance(shards, dict) and shards and all(isinstance(name, str) for name in shards.values())):
        raise LatentcError(
            f"{index} is not an index of shards: its 'weight_map' does not name a file for each key."
        )
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name or not os.path.isfile(index.parent / name):
            raise LatentcError(
                f"{index} names the shard {paths.shown(name)}, which is not in {index.parent}.",
                "Download the model again: a part of it is missing.",
            )
    return tuple(index.parent / name for name in names)


def _stored(file: Path, entry: Entry) -> Stored:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise LatentcError(f"'{entry.key}' in {file} is of type {entry.dtype}, which cannot be compiled.")
    return Stored(file, entry.key, dtype, entry.shape, entry.offset, entry.nbytes)
