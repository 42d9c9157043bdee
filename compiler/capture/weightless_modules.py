"""Modules without weights: parameters are fake tensors, buffers are real, nothing else is allocated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from artifacts import foreseen
from artifacts.error_text import class_and_text
from artifacts.errors import LatentcError
from compiler.capture.rewritten import recordable
from compiler.model_source import ComponentSource
from compiler.origins.computed import stored as stored_parts
from compiler.origins.embeddings import extended
from compiler.origins.ip_adapter_file import require_all_used
from compiler.origins.recorded import Recorded, simplified, some
from runtimes import ip_adapters, spare_tokens
from runtimes.config_keys import keys_behind
from runtimes.configs import IP_ADAPTERS_KEY, LIST_KEY, read_config
from runtimes.guard import guarded
from runtimes.pipeline_parts import private_copy
from runtimes.resource_limits import SPARE_WEIGHTS, bounded
from runtimes.trusted_classes import list_of_models
from targets.graph.weights import Origin, Seeded

# Tables of more elements that checkpoints store (SD 3.5's positions: 226 million) are weights like any other.
_TABLE_ELEMENTS = 65536
# Tables of more are not computed where that can be helped.
_LARGE_ELEMENTS = 1 << 24
# Bytes of a table that is computed all the same, since no file holds it.
_COMPUTED = 1 << 30
# Of stored weights: those of four bits, and those that two modules share.
_WEIGHTS_A_BYTE = 4
_HINT = "download the model again, from a source that you trust."


def build(component: ComponentSource, mode: FakeTensorMode, as_it_is: bool = False) -> torch.nn.Module:
    """The component's module in fp32 and eval mode.

    It is built with its parameters on the meta device, so that buffers and tables which constructors compute
    (rotary frequencies, position ids) are real and right; then each parameter becomes a fake CPU tensor of `mode`.

    Args:
        as_it_is: leave code that cannot be recorded (`rewritten.recordable`): for a module that is run.

    Raises:
        LatentcError: the config does not fit the class, or asks for far more than the weights are.
    """
    subject = f"'{component.name}' ({component.class_name})"
    place = component.folder / "config.json"
    config = component.config
    description = f"{subject}, made of {place},"
    with _default_dtype(torch.float32):
        try:
            with (
                bounded(description, _most_weights(component), config, _COMPUTED, _HINT),
                guarded(description),
            ):
                module = _without_weights(component)
        except LatentcError:
            raise
        except Exception as error:  # Hundreds of classes, whose constructors refuse settings in as many ways.
            if (used_up := foreseen.exhausted(error)) is not None:
                raise used_up from error
            raise LatentcError(
                f"{subject} cannot be built of {place}: {class_and_text(error)}.{keys_behind(error, config)}",
                f"Correct that file, or {_HINT}",
            ) from error
    if hasattr(module, "tie_weights"):  # transformers; building without memory made every parameter its own
        module.tie_weights()  # type: ignore[operator]
    seen: dict[int, torch.nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in list(owner._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in seen:  # tied parameters stay tied
                dtype = torch.float32 if parameter.is_floating_point() else parameter.dtype
                with mode:
                    fake = torch.empty(parameter.shape, dtype=dtype)
                seen[id(parameter)] = torch.nn.Parameter(fake, requires_grad=False)
            owner._parameters[name] = seen[id(parameter)]
        for name, buffer in list(owner._buffers.items()):
            if buffer is not None and buffer.device.type == "meta":
                with mode:
                    owner._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return module.eval() if as_it_is else recordable(module.eval())


@contextmanager
def borrowed(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """While it is open, modules may be changed (parameters, children, attributes); then they are as before."""
    attributes = [(part, _copies(vars(part))) for module in modules for part in module.modules()]
    try:
        yield
    finally:
        for part, before in attributes:
            vars(part).clear()
            vars(part).update(before)


def _copies(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes, with containers of their own: PyTorch keeps a module's children and parameters in such."""
    return {
        name: copy(value) if isinstance(value, (dict, list, set)) else value
        for name, value in attributes.items()
    }


def _most_weights(component: ComponentSource) -> int | None:
    """How many weights the module may have for what its files hold; None where it has none, and gets noise."""
    if component.members:
        counts = [_most_weights(member) for member in component.members]
        return None if None in counts else sum(count for count in counts if count is not None)
    try:
        sizes = [file.stat().st_size for file in component.weight_files]
    except (LatentcError, OSError):  # `bind` says so, where weights are wanted.
        return None
    sizes += [adapter.file.stat().st_size for adapter in component.ip_adapters]
    return SPARE_WEIGHTS + _WEIGHTS_A_BYTE * sum(sizes) if sizes else None


def _without_weights(component: ComponentSource) -> torch.nn.Module:
    """The module with parameters on the meta device and real buffers.

    A constructor may compute a table that the checkpoint stores as well (SD 3.5's positions: 0.9 GB, and four times
    that on the way). It is not computed then: the buffer is on the meta device, like a parameter.
    """
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False), _SmallTables():
            return _construct(component)
    except _LargeTable:
        pass
    with torch.device("meta"):
        module = _construct(component)
    if _has_only_stored_tables(module):
        return module
    with init_empty_weights(include_buffers=False):
        return _construct(component)


class _LargeTable(Exception):
    """A constructor computes a table that is large for a compile that holds no model."""


class _SmallTables(TorchFunctionMode):
    """While it is open, computing more than `_LARGE_ELEMENTS` numbers at once raises `_LargeTable`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # torch.empty is how every parameter begins, and takes no memory until it is written.
        computed = func is not torch.empty and isinstance(result, torch.Tensor)
        if computed and result.device.type == "cpu" and result.numel() > _LARGE_ELEMENTS:
            raise _LargeTable
        return result


def _has_only_stored_tables(module: torch.nn.Module) -> bool:
    """Whether all that a constructor computed are large tables that checkpoints store."""
    stored = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    for owner in module.modules():
        fields = {k: v for k, v in vars(owner).items() if k not in ("_parameters", "_buffers", "_modules")}
        if any(isinstance(leaf, torch.Tensor) for leaf in torch.utils._pytree.tree_leaves(fields)):
            return False
        tables = [buffer for buffer in owner._buffers.values() if buffer is not None]
        if any(id(table) not in stored or table.numel() <= _TABLE_ELEMENTS for table in tables):
            return False
    return True


def _construct(component: ComponentSource) -> torch.nn.Module:
    module = _of_config(component)
    if component.ip_adapters:
        parts = _put(module, component)
        _PUT[module] = [(part, _origins(state)) for part, state in parts]
    if component.spare_tokens is not None:
        spare_tokens.put(module, *component.spare_tokens)
    return module


def _put(module: torch.nn.Module, component: ComponentSource) -> list[tuple[torch.nn.Module, dict[str, Any]]]:
    try:
        return ip_adapters.put(module, [adapter.state() for adapter in component.ip_adapters])
    except LatentcError:
        raise
    except Exception as error:  # Loaders index and reshape what they take for granted.
        names = ", ".join(adapter.file.name for adapter in component.ip_adapters)
        raise LatentcError(
            f"--ip-adapter: {names} cannot be put into '{component.name}': {class_and_text(error)}.",
            "It is of another model, or of a layout that the installed diffusers does not read.",
        ) from error


_PUT: WeakKeyDictionary[torch.nn.Module, list[tuple[torch.nn.Module, dict[str, Origin]]]] = (
    WeakKeyDictionary()
)
"""Modules with IP-Adapters -> the submodules that these brought, and where their weights are stored."""


def _origins(state: Mapping[str, Any]) -> dict[str, Origin]:
    return {name: tensor.origin for name, tensor in state.items() if isinstance(tensor, Recorded)}


def _of_config(component: ComponentSource) -> torch.nn.Module:
    cls: Any = component.cls
    if component.members:
        return list_of_models(cls, json.loads(component.config)[LIST_KEY])  # type: ignore[no-any-return]
    if getattr(cls, "config_class", None) is None:  # diffusers' ConfigMixin
        file = str(component.folder / "config.json")
        config = read_config(component.config, file, verified=False)
        config.pop(IP_ADAPTERS_KEY, None)
        return cls.from_config(config)  # type: ignore[no-any-return]
    with private_copy(component.config, "config.json") as copy:
        config = cls.config_class.from_pretrained(str(copy.parent), local_files_only=True)
    # Weights of another precision would change the graph: dtype belongs to a pass.
    config.dtype = torch.float32
    return cls(config)  # type: ignore[no-any-return]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def bind(module: torch.nn.Module, component: ComponentSource) -> dict[str, Origin]:
    """Where each parameter and persistent buffer of `module` is stored, by its name in the module.

    The names in a file go through the renaming that the module's own library does when it loads, and tied
    parameters share one stored tensor.

    Raises:
        LatentcError: a parameter is stored nowhere or with another shape; the message names the keys.
    """
    if component.members:
        return _bind_list(module, component)
    wanted = dict(module.state_dict(keep_vars=True))
    names = _renamed(module, component.stored, wanted)
    origins = {name: component.stored[key] for key, name in names.items() if name in wanted}
    if component.rows:
        table: Any = module.get_input_embeddings().weight  # type: ignore[operator]
        for name in [name for name in origins if wanted[name] is table]:
            origins[name] = extended(origins[name], component.rows)
    origins |= _of_ip_adapters(module, component)
    by_tensor = {id(wanted[name]): stored for name, stored in origins.items()}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    missing = []
    uncomputed = [name for name, tensor in wanted.items() if isinstance(tensor, FakeTensor)]
    for name in dict.fromkeys((*parameters, *uncomputed)):
        if name not in origins:
            if name in parameters and id(parameters[name]) in by_tensor:
                origins[name] = by_tensor[id(parameters[name])]
            else:
                missing.append(name)
    if missing:
        raise LatentcError(
            f"'{component.name}' has {len(missing)} weights that are not in "
            f"{', '.join(f.name for f in component.weight_files)}: {some(missing)}.",
            "The files are of another model or of another version of it: download it again.",
        )
    for name, stored in origins.items():
        shape = tuple(wanted[name].shape)
        if stored.shape != shape:
            raise LatentcError(
                f"'{stored.key}' in {component.weight_files[0].name} has the shape {list(stored.shape)}; "
                f"'{component.name}' needs {list(shape)}.",
                "Its config.json and its weights are of different models.",
            )
    return origins


def _of_ip_adapters(module: torch.nn.Module, component: ComponentSource) -> dict[str, Origin]:
    """Where the weights are stored that IP-Adapters bring.

    Raises:
        LatentcError: a file is of another model.
    """
    if not component.ip_adapters:
        return {}
    paths = {id(part): path for path, part in module.named_modules()}
    origins: dict[str, Origin] = {}
    for part, state in _PUT[module]:
        parameters = part.state_dict(keep_vars=True)
        for name, origin in state.items():
            shape = tuple(parameters[name].shape) if name in parameters else ()
            if origin.shape != shape:
                raise LatentcError(
                    f"--ip-adapter: a tensor of {component.ip_adapters[0].file.name} has the shape "
                    f"{list(origin.shape)}; '{component.name}.{paths[id(part)]}.{name}' needs {list(shape)}.",
                    "It is of another model.",
                )
            origins[f"{paths[id(part)]}.{name}"] = simplified(origin, name)
    used: set[Origin] = {leaf for origin in origins.values() for leaf in stored_parts(origin)}
    require_all_used(component.ip_adapters, used)
    return origins


def _bind_list(module: torch.nn.Module, component: ComponentSource) -> dict[str, Origin]:
    """`bind` of a component that is a list of models."""
    (models,) = (name for name, child in module.named_children() if isinstance(child, torch.nn.ModuleList))
    origins: dict[str, Origin] = {}
    for number, member in enumerate(component.members):
        stored = bind(module.get_submodule(f"{models}.{number}"), member)
        origins |= {f"{models}.{number}.{name}": tensor for name, tensor in stored.items()}
    return origins


def seeded(module: torch.nn.Module) -> dict[str, Origin]:
    """What `bind` finds, for a module whose weights are not there: every parameter and large stored table, as noise.

    Small buffers keep what the constructor computed.
    """
    dtypes = {torch.float32: ir.DataType.FLOAT, torch.int64: ir.DataType.INT64, torch.bool: ir.DataType.BOOL}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    tables = {
        name: tensor
        for name, tensor in module.state_dict(keep_vars=True).items()
        if tensor.dtype == torch.float32 and tensor.numel() > _TABLE_ELEMENTS
    }
    origins_by_id: dict[int, Origin] = {}
    origins: dict[str, Origin] = {}
    for name, parameter in {**parameters, **tables}.items():
        tensor = Seeded.of(name, tuple(parameter.shape), dtypes[parameter.dtype])
        origins[name] = origins_by_id.setdefault(id(parameter), tensor)
    return origins


def real_tensor(module: torch.nn.Module, weights: Mapping[str, Origin], name: str) -> torch.Tensor:
    """The real value of a parameter or buffer of a module without weights; floats are fp32, as in the module.

    Args:
        weights: what `bind` found for the module.

    Raises:
        KeyError: the module has no such tensor.
    """
    stored = weights.get(name)
    if stored is None:
        # Not by attribute: a recorder answers those.
        return dict(module.named_buffers(remove_duplicate=False))[name]
    old = module.state_dict(keep_vars=True)[name]
    array = stored.read()
    if old.is_floating_point():
        return torch.from_numpy(array.astype("float32", copy=False))
    return torch.from_numpy(array).to(old.dtype)


def _renamed(
    module: torch.nn.Module, stored: Mapping[str, Origin], wanted: Mapping[str, Any]
) -> dict[str, str]:
    """Key in the file -> name in the module."""
    if hasattr(module, "_fix_state_dict_keys_on_load"):  # diffusers: a dict of tensors, edited in place
        names: dict[str, Any] = {key: key for key in stored}
        module._fix_state_dict_keys_on_load(names)  # type: ignore[operator]
        return {key: name for name, key in names.items()}
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(module)
    renamings = [step for step in mapping if isinstance(step, WeightRenaming)]
    converters = [step for step in mapping if isinstance(step, WeightConverter)]
    prefix: Any = getattr(module, "base_model_prefix", None)
    result: dict[str, str] = {}
    for key in stored:
        name, pattern = rename_source_key(key, renamings, converters, prefix, dict(wanted))
        if pattern is not None and name not in wanted:
            raise LatentcError(
                f"transformers rebuilds '{key}' from several stored tensors ({pattern}) when it loads "
                f"{type(module).__name__}; latentc streams stored tensors as they are.",
                "Save it once in today's form: from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
            )
        result[key] = name if name in wanted or key not in wanted else key
    return result
