"""Adapters (LoRA, DoRA, LoHa, LoKr, full differences) merged into weights that stay on disk.

diffusers' own loaders and `peft` run over modules whose parameters are tensors that record: what they do to a
parameter is what is done to its bytes when the weight is read, one weight at a time. Kinds that diffusers lacks are
merged by `lycoris-lora`, whose merge is one recorded step.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.error_text import one_line
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import Adapter
from artifacts.named_files import no_file
from artifacts.progress import Event, Progress, silent
from artifacts.safetensors_header import require_safetensors
from compiler.capture import lora_layers, lora_strengths, lycoris_kinds
from compiler.capture.weightless_modules import borrowed, build
from compiler.model_source import ModelSource
from compiler.origins.computed import Constant, stored
from compiler.origins.recorded import Recorded, simplified, some
from compiler.origins.stored_file import stored_tensors
from runtimes.assemble import assemble
from runtimes.quiet import quiet
from runtimes.trusted_classes import class_path
from targets.graph.weights import Origin, Stored

Weights = Mapping[str, Mapping[str, Origin]]
"""Component -> name in the module -> where the weight comes from."""


@dataclass(frozen=True)
class _File:
    """An adapter's file: its name among the loaded ones, its tensors, and what was asked for."""

    name: str
    adapter: Adapter
    tensors: Mapping[str, Stored]

    @property
    def path(self) -> Path:
        return Path(self.adapter.file)

    def weight(self, component: str) -> float:
        return self.adapter.components.get(component, self.adapter.weight)


@dataclass(frozen=True)
class Merged:
    """What adapters make of a model's weights.

    Attributes:
        weights: as they were given, with the adapters' differences.
        adapters: the source's, with how many tensors of each were left out.
    """

    weights: dict[str, dict[str, Origin]]
    adapters: tuple[Adapter, ...]


def merged(
    source: ModelSource,
    weights: Weights,
    progress: Progress = silent,
    modules: Mapping[str, torch.nn.Module] | None = None,
) -> Merged:
    """The weights with the source's adapters merged into them. One whose adapters have a weight of 0 stays its origin.

    Where the source says that adapters may be merged in part, tensors that find no weight are left out.

    Args:
        weights: of all components, as `weightless_modules.bind` finds them.
        modules: the components' modules as `weightless_modules.build` makes them, which are as before afterwards; None
            to build them.

    Raises:
        LatentcError: an adapter cannot be read, is of another model, or has tensors that find no weight; or what
            reads adapters is not installed.
        UsageError: a weight is for a component that the pipeline does not have.
    """
    result = {name: dict(names) for name, names in weights.items()}
    if not source.spec.adapters:
        return Merged(result, ())
    _require_libraries()
    files = [_read(number, adapter) for number, adapter in enumerate(source.spec.adapters)]
    progress(Event(f"merging {len(files)} adapters", 0, None))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    built = modules or {name: build(source.component(name), mode) for name in weights}
    with borrowed(built.values()):
        modules = {name: _recording(built[name], names) for name, names in weights.items()}
        return _merged(source, result, modules, files, progress)


def _merged(
    source: ModelSource,
    result: dict[str, dict[str, Origin]],
    modules: Mapping[str, torch.nn.Module],
    files: Sequence[_File],
    progress: Progress,
) -> Merged:
    """`merged`, in modules whose parameters record.

    Args:
        result: the weights without adapters, which are replaced in it.
    """
    partial = source.spec.partial
    pipe = assemble(source.files, class_path(source.pipeline_class()), modules)
    _check_components(source, pipe, modules)
    # What finds no weight is an error here, not a warning.
    with quiet("diffusers", "transformers", "peft", "LyCORIS", level=logging.CRITICAL), _no_bars():
        used = _load(pipe, files, modules, partial)
        for file in files:
            used[file.path] |= lycoris_kinds.merge(
                pipe, modules, file.path, file.tensors, file.weight, partial
            )
    for component, module in modules.items():
        for name, tensor in _state(module).items():
            if isinstance(tensor, Recorded) and name in result[component]:
                own = result[component][name]
                origin = simplified(tensor.origin, name)
                result[component][name] = own if origin == own else origin
    adapters = []
    for file in files:
        unused = _unused(file, result, used[file.path], partial)
        if unused:
            text = (
                f"{file.path.name}: {len(unused)} tensors find no weight and are left out: {some(unused, 2)}."
            )
            progress(Event(text, 1, 1))
        adapters.append(file.adapter.model_copy(update={"left_out": len(unused)}))
    progress(Event(f"merging {len(files)} adapters", 1, 1))
    return Merged(result, tuple(adapters))


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bars of transformers, which counts a LoRA's tensors on standard error."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _require_libraries() -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise LatentcError(
            "LoRAs are merged by peft, which is not installed.", 'Install it: pip install "latentc[adapters]"'
        ) from None


def _read(number: int, adapter: Adapter) -> _File:
    """An adapter's tensors, looked through once: such files are small, and what is wrong is said before the work."""
    path = Path(adapter.file)
    if path.is_dir():
        raise LatentcError(f"--lora: {path} is a folder.", "Name the .safetensors file in it.")
    if not path.is_file():
        raise LatentcError(*no_file("--lora", path))
    require_safetensors(path)
    tensors = stored_tensors([path])
    if not tensors:
        raise LatentcError(f"--lora: {path} holds no tensors.")
    for key, tensor in tensors.items():
        if 0 in tensor.shape:
            raise LatentcError(
                f"--lora: '{key}' in {path} has the shape {list(tensor.shape)}: it is of rank 0 and holds nothing.",
                "The file is damaged: train or download it again.",
            )
        tensor.read()  # which refuses what is not finite
    return _File(f"adapter_{number}", adapter, tensors)


def _recording(module: torch.nn.Module, weights: Mapping[str, Origin]) -> torch.nn.Module:
    """A component whose parameters record what is done to them; floats are fp32, as in the module that is exported."""
    parameters: dict[int, torch.nn.Parameter] = {}
    for path, owner in module.named_modules():
        for key, parameter in list(owner._parameters.items()):
            origin = weights.get(f"{path}.{key}" if path else key)
            if parameter is None or origin is None:
                continue
            if id(parameter) not in parameters:  # tied parameters stay tied
                tensor = Recorded(origin)
                tensor = tensor.float() if parameter.is_floating_point() else tensor  # type: ignore[assignment]
                parameters[id(parameter)] = torch.nn.Parameter(tensor, requires_grad=False)
            owner._parameters[key] = parameters[id(parameter)]
    return module


def _state(module: torch.nn.Module) -> dict[str, Any]:
    """Parameters by the names that they had before layers were wrapped."""
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }


def _check_components(source: ModelSource, pipe: Any, modules: Mapping[str, Any]) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise LatentcError(f"diffusers loads no LoRA into {type(pipe).__name__}.")
    for adapter in source.spec.adapters:
        for name in adapter.components:
            if name not in modules:
                raise UsageError(
                    f"--lora {Path(adapter.file).name}: the model has no component '{name}' "
                    f"(it has: {', '.join(modules)})."
                )


def _load(
    pipe: Any, files: Sequence[_File], modules: Mapping[str, torch.nn.Module], partial: bool
) -> dict[Path, set[str]]:
    """Loads what diffusers itself reads of the files, and fuses it in their weights.

    Args:
        partial: whether matrices that fit no layer are left out; otherwise diffusers may refuse them.

    Returns:
        Keys of each file's tensors that found a layer of a component where their weight is 0; they are not fused.
    """
    loaded: dict[str, dict[str, float]] = {}
    idle: dict[Path, set[str]] = {file.path: set() for file in files}
    layers = lora_layers.Layers(modules)
    for file in files:
        state = lycoris_kinds.without(file.tensors)
        if not state:
            continue
        with _explained(file):
            tensors = lora_strengths.multiplied(state, lora_strengths.settings(file.path))
            read = lora_layers.parts(pipe, layers, tensors, partial)
        # Where diffusers has the last word it says why nothing fits.
        parts = read.states or ([tensors] if len(state) == len(file.tensors) else [])
        for number, part in enumerate(parts):
            name = f"{file.name}_{number}"
            with _explained(file, read.misfits):
                pipe.load_lora_weights(dict(part), adapter_name=name)
            adapters = pipe.get_list_adapters() if hasattr(pipe, "get_list_adapters") else {}
            components = [component for component, names in adapters.items() if name in names]
            if components:
                loaded[name] = {component: file.weight(component) for component in components}
            for component in components:
                lora_strengths.without_strengths(modules[component], name)
                if not file.weight(component):
                    idle[file.path] |= _keys(modules[component], name)
    if not loaded:
        return idle
    pipe.set_adapters(list(loaded), [dict(weights) for weights in loaded.values()])
    for component in sorted({component for weights in loaded.values() for component in weights}):
        # A factor of DoRA is not 1 at the weight 0.
        active = [name for name, weights in loaded.items() if weights.get(component)]
        if active:
            pipe.fuse_lora(components=[component], adapter_names=active)
    return idle


def _keys(module: torch.nn.Module, adapter: str) -> set[str]:
    """The keys of an adapter's tensors that became parts of a module's layers."""
    return {
        tensor.key
        for name, parameter in module.named_parameters()
        if adapter in name.split(".") and isinstance(parameter, Recorded)
        for tensor in stored(parameter.origin)
    }


@contextmanager
def _explained(file: _File, misfits: Sequence[str] = ()) -> Iterator[None]:
    """Makes what libraries raise an error of one line; `misfits` are keys without which the file could be merged."""
    try:
        yield
    except LatentcError:
        raise
    except Exception as error:  # Converters index and reshape what they take for granted.
        mismatch = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), "")
        reason = mismatch[:300] or one_line(error, 300)
        raise LatentcError(
            f"--lora: {file.path.name} cannot be merged into this model: {reason}",
            f"What does not fit: {some(list(misfits))}. Merge the others all the same: --lora-partial"
            if misfits
            else "It is of another model, or of a layout that the installed diffusers does not read.",
        ) from error


def _unused(file: _File, weights: Weights, idle: Collection[str], partial: bool) -> list[str]:
    """The keys of an adapter's tensors that became part of no weight.

    Args:
        idle: keys of those that are for a component where the adapter's weight is 0.
        partial: whether some may be left out.

    Raises:
        LatentcError: names them, where they are all of its tensors, or none may be left out.
    """
    used = {
        tensor.key
        for names in weights.values()
        for origin in names.values()
        if not isinstance(origin, (Stored, Constant))
        for tensor in stored(origin)
        if tensor.file == file.path
    }.union(idle)
    tensors = [key for key, tensor in file.tensors.items() if not lora_layers.is_number(tensor.shape)]
    unused = [key for key in tensors if key not in used]
    layers = {lora_layers.layer_name(key) for key in tensors if key in used}
    if parts := [key for key in unused if lora_layers.layer_name(key) in layers]:
        # A magnitude of DoRA, or the bias of an upper matrix: what is merged without it is another adapter.
        raise LatentcError(
            f"--lora: the installed diffusers reads only a part of some layers of {file.path.name}, not {some(parts)}.",
            "Merging the rest would make another picture: this file cannot be used here.",
        )
    whole = len(unused) == len(tensors)
    if not whole and (partial or not unused):
        return unused
    raise LatentcError(
        f"--lora: {'no tensor' if whole else f'{len(unused)} of the {len(tensors)} tensors'} of {file.path.name} "
        f"{'finds a weight in this model' if whole else 'find no weight in this model'}: "
        f"{some(unused or list(file.tensors))}.",
        "It is of another model." if whole else "Merge the others all the same: --lora-partial",
    )
