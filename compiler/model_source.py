"""A model as it lies on disk: its pipeline, its components, and where each of their weights is stored.

Nothing here reads a weight. Only safetensors are opened, and of them only the headers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from artifacts import strict_json
from artifacts.contents import Contents, Folder
from artifacts.errors import LatentcError
from artifacts.manifest import TRUSTED_LIBRARIES, LeftOut, ModelSpec
from compiler import hub_models
from compiler.origins import folder_files, quantized_folder
from compiler.origins.ip_adapter_file import IpAdapterFile
from compiler.origins.stored_file import stored_tensors
from compiler.origins.weight_files import Rows, WeightFiles
from runtimes.assemble import INDEX
from runtimes.configs import IP_ADAPTERS_KEY, LIST_KEY, SPARE_TOKENS_KEY, cleaned, read_config
from runtimes.model_view import following
from runtimes.trusted_classes import component_class, is_list, is_own
from targets.graph.weights import Origin

_QUANTIZED = "quantization_config"


@dataclass(frozen=True)
class ComponentSource:
    """One entry of model_index.json.

    Attributes:
        name: the pipeline's name for it ("unet").
        library: "diffusers", "transformers" or a module of `diffusers.pipelines`.
        class_name: its class there.
        folder: its folder; it need not exist for components without files.
        elsewhere: its weights, where they are not in the folder.
        rows: of a text encoder: rows of its table that textual inversions add.
        places: of a list of models that was put together: their folders. Empty where they lie beside `folder`.
        ip_adapters: what is put into it, in order.
        spare_tokens: of a text encoder: the first id of the tokens that it may learn later, and their number.
    """

    name: str
    library: str
    class_name: str
    folder: Path
    elsewhere: WeightFiles | None = None
    rows: tuple[Rows, ...] = ()
    places: tuple[Path, ...] = ()
    ip_adapters: tuple[IpAdapterFile, ...] = ()
    spare_tokens: tuple[int, int] | None = None

    @cached_property
    def cls(self) -> type:
        """The class itself.

        Raises:
            LatentcError: the installed libraries do not have it.
        """
        installed_class = component_class(self.library, self.class_name)
        if installed_class is not None:
            return installed_class
        if self.library in TRUSTED_LIBRARIES:
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
    def is_foreign(self) -> bool:
        """Whether its class is neither of the libraries that latentc runs nor of one of diffusers' pipelines."""
        return (
            self.library not in TRUSTED_LIBRARIES and component_class(self.library, self.class_name) is None
        )

    @property
    def is_module(self) -> bool:
        """Whether it is a torch module, so something to compile."""
        import torch

        return issubclass(self.cls, torch.nn.Module)

    @cached_property
    def members(self) -> tuple[ComponentSource, ...]:
        """The models of a component that is a list of models (several ControlNets), in order; empty for others."""
        if not is_list(self.cls):
            return ()
        folders = self.places or (self.folder, *following(self.folder))
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
        config = cleaned(Folder(self.folder).read(file), str(self.folder / file), verified=False)
        plain = self.quantized is None and self.spare_tokens is None
        if plain and not self.rows and not self.ip_adapters:
            return config
        settings = json.loads(config)
        settings.pop(_QUANTIZED, None)
        if self.rows:
            settings["vocab_size"] = max(settings["vocab_size"], *(part.end for part in self.rows))
        if self.ip_adapters:
            settings[IP_ADAPTERS_KEY] = [adapter.shapes() for adapter in self.ip_adapters]
        if self.spare_tokens is not None:
            settings[SPARE_TOKENS_KEY] = list(self.spare_tokens)
        return (json.dumps(settings, indent=2) + "\n").encode()

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold its weights; of a folder, those that diffusers or transformers would read, in order.

        Raises:
            LatentcError: there are none, or only pickles, or a library has quantized them that is not decoded.
        """
        if self.members:
            return tuple(file for member in self.members for file in member.weight_files)
        if self.elsewhere is not None:
            return self.elsewhere.files
        # Before the files: torchao's are pickles as a rule, and are better called what they are.
        self.require_decoded()
        return folder_files.weight_files(self.folder, self.name)

    @property
    def variant(self) -> str | None:
        """ "model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors" -> "fp16"."""
        if self.elsewhere is not None:
            return None
        parts = self.weight_files[0].name.split(".")
        return parts[1].split("-0")[0] if len(parts) == 3 else None

    @cached_property
    def stored(self) -> Mapping[str, Origin]:
        """Every weight by its key: in the weight files, or in the module where the files are converted for it.

        Raises:
            LatentcError: a file is damaged, a key stands in two shards, or a dtype is not supported.
        """
        if self.elsewhere is not None:
            return self.elsewhere.tensors(self.cls, self.folder)
        if self.quantized is None:
            return stored_tensors(self.weight_files)
        return quantized_folder.tensors(self.weight_files, self.name)

    def require_decoded(self) -> None:
        """Raises LatentcError where a library has quantized its folder's weights that does not decode them here."""
        quantized = self.quantized
        if quantized is None or quantized.get("quant_method") in quantized_folder.DECODED:
            return
        raise LatentcError(
            f"the weights of '{self.name}' are quantized already, by {quantized_folder.kind(quantized)}; "
            "latentc compiles weights as they were trained and quantizes them itself.",
            f"Give the model that it was made from, or that component alone: --component {self.name}=FOLDER, "
            "and --quantize nf4, int4 or int8.",
        )

    @cached_property
    def quantized(self) -> Mapping[str, Any] | None:
        """How a library has quantized its folder's weights, as their configuration says; None where none has."""
        file = self.folder / "config.json"
        if self.elsewhere is not None or not file.is_file():
            return None
        config = strict_json.loads(Folder(self.folder).read(file.name), str(file))
        quantized = config.get(_QUANTIZED) if isinstance(config, dict) else None
        return quantized if isinstance(quantized, dict) else None


@dataclass(frozen=True)
class ModelSource:
    """A diffusers pipeline and the files that it is made of.

    Attributes:
        id: what the user named.
        root: the folder with its index and its configurations.
        revision: the hub's commit, or empty.
        pipeline: the class name in model_index.json.
        components: every component that is there (entries that are null are left out).
        config: the other entries of model_index.json, given to the pipeline as they are.
        files: the index, configurations and vocabularies as this model has them; weights are not read through it.
        spec: what was asked for.
        left_out: what was taken out of the model as its pipeline can do without it, and why.
    """

    id: str
    root: Path
    revision: str
    pipeline: str
    components: tuple[ComponentSource, ...]
    config: Mapping[str, Any]
    files: Contents
    spec: ModelSpec
    left_out: tuple[LeftOut, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether it is a diffusers folder and nothing else, which diffusers itself can open."""
        plain = self.spec == ModelSpec(model=self.spec.model)
        own = all(c.elsewhere is None and c.quantized is None for c in self.components)
        return plain and own

    @property
    def added(self) -> tuple[Path, ...]:
        """The files of its adapters, embeddings and IP-Adapters."""
        spec = self.spec
        files = [item.file for item in spec.adapters] + [item.file for item in spec.embeddings]
        return tuple(map(Path, (*files, *(item.file for item in spec.ip_adapters))))

    @property
    def license(self) -> str:
        """What the model's card names ("apache-2.0"); empty where it names none."""
        return hub_models.license_of(self.root)

    @property
    def foreign(self) -> tuple[ComponentSource, ...]:
        """The components whose code is of libraries that latentc does not run, where the pipeline can do without."""
        foreign = [component for component in self.components if component.is_foreign]
        optional = getattr(self.pipeline_class(), "_optional_components", ()) if foreign else ()
        return tuple(component for component in foreign if component.name in optional)

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

    def pipeline_parameters(self) -> tuple[str, ...]:
        """The names of the components that its pipeline takes."""
        import inspect

        parameters = inspect.signature(self.pipeline_class().__init__).parameters  # type: ignore[misc]
        return tuple(name for name in parameters if name != "self" and name not in self.config)


def check_pipeline(cls: Any, name: str, index: str) -> None:
    """Raises LatentcError unless `cls`, which `index` calls `name`, is a pipeline that says what it is made of."""
    import inspect

    from diffusers import DiffusionPipeline

    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if not (isinstance(cls, type) and issubclass(cls, DiffusionPipeline) and is_own(cls)):
        fault = "which is no pipeline of diffusers"
    elif any(p.kind in unnamed for p in inspect.signature(cls).parameters.values()):
        fault = "which does not say what it is made of"
    else:
        return
    raise LatentcError(
        f"{index}: '_class_name' is {name!r}, {fault}.",
        "Name the pipeline's own class, e.g. StableDiffusionPipeline.",
    )


def _class_of(folder: Path) -> str:
    """The class that a model's own configuration names."""
    data = Folder(folder).read("config.json")
    name = read_config(data, str(folder / "config.json"), verified=False).get("_class_name")
    if not isinstance(name, str):
        raise LatentcError(f"{folder / 'config.json'} names no class (_class_name).")
    return name
