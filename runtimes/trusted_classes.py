"""Classes that an artifact names: imported from trusted libraries, and only of the kinds that are data."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from artifacts.errors import LatentcError
from artifacts.manifest import TRUSTED_LIBRARIES
from runtimes.guard import guarded


def import_class(class_path: str) -> type:
    """``"diffusers.models.unets:UNet2DConditionModel"`` -> the class.

    Raises:
        LatentcError: not of that form, not in a trusted library, not there, or not a class.
    """
    module, _, name = class_path.partition(":")
    if module.partition(".")[0] not in TRUSTED_LIBRARIES or not name.isidentifier():
        raise LatentcError(
            f"the artifact names the class '{class_path}'; "
            f"only classes of {' and '.join(sorted(TRUSTED_LIBRARIES))} are imported."
        )
    try:
        with guarded(f"importing {module}"):
            cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, RuntimeError) as error:
        library = module.partition(".")[0]
        raise LatentcError(
            f"the artifact needs {class_path}, which the installed {library} does not have: {error}",
            f"Install the version of {library} that latentc.json names under toolchain.",
        ) from error
    if not isinstance(cls, type):
        raise LatentcError(f"the artifact names '{class_path}', which is not a class.")
    if not is_own(cls):
        raise LatentcError(
            f"the artifact names '{class_path}', which is a class of {cls.__module__.partition('.')[0]}; "
            f"only classes of {' and '.join(sorted(TRUSTED_LIBRARIES))} are used."
        )
    return cls


def is_own(cls: type) -> bool:
    """Whether a trusted library defines the class; its modules' names hold what they import, too."""
    return cls.__module__.partition(".")[0] in TRUSTED_LIBRARIES


def pipeline_class(class_path: str) -> type:
    """A pipeline's class that says which components it is made of.

    Raises:
        LatentcError: it is no pipeline, or the generic one, which is made of whatever an index names.
    """
    import inspect

    from diffusers import DiffusionPipeline

    cls: Any = import_subclass(class_path, DiffusionPipeline, "pipeline")
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(p.kind in unnamed for p in inspect.signature(cls.__init__).parameters.values()):
        raise LatentcError(
            f"the artifact names the pipeline '{class_path}', which does not say what it is made of.",
            "Compile the model again: an artifact names the class of one pipeline.",
        )
    return cls  # type: ignore[no-any-return]


def is_list(cls: type) -> bool:
    """Whether a model's class is made of a list of models (MultiControlNetModel), and has no configuration itself."""
    from diffusers import ConfigMixin, ModelMixin

    return issubclass(cls, ModelMixin) and not issubclass(cls, ConfigMixin)


def module_class(class_path: str) -> type:
    """A module's class that is built from a configuration, or from a list of such modules.

    Raises:
        LatentcError: it is none.
    """
    import torch
    from diffusers import ConfigMixin
    from transformers import PreTrainedModel

    cls = import_subclass(class_path, torch.nn.Module, "module")
    if not issubclass(cls, (ConfigMixin, PreTrainedModel)) and not is_list(cls):
        raise LatentcError(f"the artifact names '{class_path}' as a component; it has no configuration.")
    return cls


def list_of_models(cls: Any, configs: Sequence[Mapping[str, Any]]) -> Any:
    """An instance of `cls`, which `is_list`, of models that are built from their configurations.

    Raises:
        LatentcError: a configuration is of no model of diffusers.
    """
    from diffusers import ConfigMixin

    models = []
    for config in configs:
        name = config.get("_class_name")
        model: Any = component_class("diffusers", name) if isinstance(name, str) else None
        if model is None or not is_own(model) or not issubclass(model, ConfigMixin):
            raise LatentcError(f"{cls.__name__} is made of models of diffusers; found '{name}'.")
        models.append(model.from_config(config))
    return cls(models)


def import_subclass(class_path: str, base: type, kind: str) -> type:
    """`import_class`, for a class that must derive from `base` (a `kind`)."""
    cls = import_class(class_path)
    if not issubclass(cls, base):
        raise LatentcError(f"the artifact names '{class_path}' as a {kind}, which it is not.")
    return cls


def component_class(library: str, class_name: str) -> type | None:
    """The class that an entry ``[library, class]`` of a model_index.json names, or None.

    `library` is a trusted library or a module of `diffusers.pipelines`. diffusers (0.42) moves retired pipelines to
    `diffusers.pipelines.deprecated` and no longer finds the classes that other pipelines still use from there
    (Stable Cascade's PaellaVQModel), neither under the names in published folders nor under those that it saves
    itself. They are found here, and shown to diffusers' own loader.
    """
    import inspect
    import pkgutil

    import diffusers
    from diffusers import pipelines
    from diffusers.pipelines import deprecated

    holder: Any = None
    if library in TRUSTED_LIBRARIES:
        holder = importlib.import_module(library)
    elif library.isidentifier() and inspect.ismodule(getattr(pipelines, library, None)):
        holder = getattr(pipelines, library)
    if library == "transformers":
        class_name = _todays_name(class_name)
    cls = getattr(holder, class_name, None)
    if isinstance(cls, type) or library in TRUSTED_LIBRARIES - {"diffusers"}:
        return cls if isinstance(cls, type) else None
    for retired in pkgutil.iter_modules(deprecated.__path__):
        if not retired.ispkg or library not in ("diffusers", retired.name):
            continue
        module = importlib.import_module(f"{deprecated.__name__}.{retired.name}")
        cls = getattr(module, class_name, None) if class_name in dir(module) else None
        if isinstance(cls, type):
            if library == "diffusers":
                setattr(diffusers, class_name, cls)
            else:
                setattr(pipelines, library, module)
            return cls
    return None


def _todays_name(class_name: str) -> str:
    """The name of a class that transformers has renamed, as diffusers' own loader has it (CLIPFeatureExtractor)."""
    try:
        from diffusers.utils import _maybe_remap_transformers_class as renamed
    except ImportError:  # private to diffusers, which looks names up as they are where it has none
        return class_name
    return renamed(class_name) or class_name


def class_path(cls: type) -> str:
    """The class as `import_class` takes it."""
    return f"{cls.__module__}:{cls.__qualname__}"


def new_output(path: str, items: dict[str, Any], texts: bool) -> Any:
    """The object ``class(**items)`` that a component returned.

    Output dataclasses of the trusted libraries may hold anything. Other classes (a VAE's
    `DiagonalGaussianDistribution`) must be of `diffusers.models` and no modules, and are given no text (`texts` says
    whether `items` holds any): without a path or a name a constructor has nothing to open.

    Raises:
        LatentcError: the class is of neither kind, or its constructor takes other arguments.
    """
    cls = _output_class(path, texts)
    try:
        return cls(**items)
    except (TypeError, ValueError, AttributeError) as error:
        raise LatentcError(f"the installed {path} is not built from {', '.join(items)}: {error}") from error


@lru_cache(maxsize=256)  # Asked at each call of a component.
def _output_class(path: str, texts: bool) -> Any:
    import dataclasses
    from collections import OrderedDict

    import torch

    cls = import_class(path)
    output = dataclasses.is_dataclass(cls) and issubclass(cls, OrderedDict)
    data = cls.__module__.startswith("diffusers.models.") and not issubclass(cls, torch.nn.Module)
    if not output and (texts or not data):
        raise LatentcError(f"the artifact builds a result of '{path}', which is not an output class.")
    return cls
