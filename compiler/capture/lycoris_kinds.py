"""Adapters of the kinds that diffusers lacks (LoHa, LoKr, full differences, Tucker convolutions), by lycoris-lora.

Which weight a group of tensors is for is asked of diffusers' own converters: they are shown a LoRA of the same names,
and what they make of its names is where the group belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from artifacts.error_text import one_line
from artifacts.errors import LatentcError
from compiler.capture import lora_layers
from compiler.origins.computed import Computed, stored
from compiler.origins.recorded import Recorded
from targets.graph.weights import Origin, Stored

# The parts of LoRA, by any of their names: diffusers reads such groups.
_LORA_PARTS = ("lora_up", "lora_down", "lora_A", "lora_B", "lora.up", "lora.down", "alpha")


def groups(tensors: Mapping[str, Origin]) -> dict[str, dict[str, Origin]]:
    """Group ("lora_unet_mid_block_...") -> part ("hada_w1_a") -> tensor, of all groups that diffusers does not read."""
    tables = _parts()
    by_group: dict[str, dict[str, Origin]] = {}
    for key in tensors:
        for part in tables:
            if key.endswith(f".{part}"):
                by_group.setdefault(key[: -len(part) - 1], {})
    for name in by_group:
        prefix = f"{name}."
        by_group[name] = {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
    return by_group


def without(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors that diffusers reads."""
    prefixes = tuple(f"{name}." for name in groups(tensors))
    return {key: tensor for key, tensor in tensors.items() if not prefixes or not key.startswith(prefixes)}


def _parts() -> frozenset[str]:
    """The parts that tell of a kind which diffusers lacks, from lycoris' own table; "lora_mid" is Tucker's."""
    try:
        from lycoris.modules import MODULE_LIST
    except ImportError:
        return frozenset({"hada_w1_a", "lokr_w1", "lokr_w1_a", "diff", "lora_mid.weight"})
    names = {part for module in MODULE_LIST for part in module.weight_list_det}
    return frozenset(n for n in names if not n.startswith(_LORA_PARTS)) | {"lora_mid.weight"}


def merge(
    pipe: Any,
    modules: Mapping[str, torch.nn.Module],
    file: Path,
    tensors: Mapping[str, Stored],
    weight: Callable[[str], float],
    partial: bool = False,
) -> set[str]:
    """Merges the groups of a file into the recording parameters of `modules`.

    Args:
        pipe: the pipeline whose converters know the names.
        weight: component -> what its differences are multiplied by.
        partial: whether groups that do not fit their weight are left out, and not an error.

    Returns:
        Keys of the tensors that found a layer of a component where their weight is 0; they are not merged.

    Raises:
        LatentcError: lycoris-lora is not installed, or a group does not fit its weight.
    """
    wanted = groups(tensors)
    idle: set[str] = set()
    if not wanted:
        return idle
    try:
        import lycoris  # noqa: F401
    except ImportError:
        raise LatentcError(
            f"--lora: {file.name} is of a kind that lycoris-lora merges, which is not installed.",
            'Install it: pip install "latentc[adapters]"',
        ) from None
    for name, places in _places(pipe, modules, wanted).items():
        for component, path, rows in places:
            module = modules[component].get_submodule(path)
            if not weight(component):
                idle.update(f"{name}.{part}" for part in wanted[name])
                continue
            try:
                _merge_group(module, wanted[name], weight(component), rows, f"{file.name}: '{name}'")
            except LatentcError:
                if not partial:
                    raise
                break
    return idle


Place = tuple[str, str, "tuple[int, int] | None"]
"""Component, path of the module, and the rows of the difference that are its own (None: all)."""


def _places(
    pipe: Any,
    modules: Mapping[str, torch.nn.Module],
    wanted: Mapping[str, Mapping[str, Origin]],
) -> dict[str, list[Place]]:
    """Where each group belongs; groups that diffusers' converters do not place are left out."""
    state: dict[str, Any] = {}
    marks: dict[str, str] = {}
    for name, parts in wanted.items():
        up, down = ("lora_up", "lora_down") if "." not in name else ("lora_B", "lora_A")
        rows = _rows(parts)
        for part, shape in ((down, (1, 1)), (up, (rows, 1))):
            mark = Stored(Path(), f"{name}.{part}.weight", ir.DataType.FLOAT, shape, 0, 0)
            state[mark.key] = Recorded(mark)
            if part == up:
                marks[mark.key] = name
        if "." not in name:
            state[f"{name}.alpha"] = torch.tensor(1.0)
    try:
        converted = lora_layers.converted(pipe, state)
        places = lora_layers.Layers(modules).places(converted)
    except Exception:  # Converters raise whatever a name that they do not know leads to.
        return _same_names(modules, wanted)
    by_group: dict[str, list[tuple[int, Place]]] = {}
    for key, tensor in converted.items():
        if not isinstance(tensor, Recorded):
            continue
        for mark in stored(tensor.origin):
            if mark.key not in marks or key not in places:
                continue
            component, path = places[key].component, places[key].path
            origin = tensor.origin
            order = (origin.output or 0) if isinstance(origin, Computed) else 0
            rows = tensor.shape[0]
            by_group.setdefault(marks[mark.key], []).append((order, (component, path, (0, rows))))
    result: dict[str, list[Place]] = {}
    for name, entries in by_group.items():
        start, ordered = 0, []
        for _, (component, path, span) in sorted(entries, key=lambda entry: entry[0]):
            assert span is not None
            ordered.append((component, path, (start, start + span[1])))
            start += span[1]
        result[name] = [(c, p, None) for c, p, _ in ordered] if len(ordered) == 1 else list(ordered)
    return _same_names(modules, {n: g for n, g in wanted.items() if n not in result}) | result


def _same_names(
    modules: Mapping[str, torch.nn.Module], wanted: Mapping[str, Mapping[str, Origin]]
) -> dict[str, list[Place]]:
    """Places of groups that are called as the module is, with dots or underscores, after a prefix."""
    result: dict[str, list[Place]] = {}
    for name in wanted:
        flat = "_" + name.replace(".", "_")
        matches = [
            (len(path), component, path)
            for component, module in modules.items()
            for path, _ in module.named_modules()
            if path and flat.endswith("_" + path.replace(".", "_"))
        ]
        longest = max((length for length, *_ in matches), default=0)
        best = [(c, p) for length, c, p in matches if length == longest]
        if len(best) == 1:
            result[name] = [(*best[0], None)]
    return result


def _rows(parts: Mapping[str, Origin]) -> int:
    """How many rows the difference of a group has, for converters that cut it."""
    shapes = {part: origin.shape for part, origin in parts.items()}
    if "diff" in shapes:
        return shapes["diff"][0]
    if "hada_w1_a" in shapes:
        return shapes["hada_w1_a"][1 if "hada_t1" in shapes else 0]
    first = shapes.get("lokr_w1", shapes.get("lokr_w1_a", (1,)))[0]
    second = shapes.get("lokr_w2", shapes.get("lokr_w2_a", (1,)))[1 if "lokr_t2" in shapes else 0]
    return first * second


def _merge_group(
    module: torch.nn.Module,
    parts: Mapping[str, Origin],
    weight: float,
    rows: tuple[int, int] | None,
    subject: str,
) -> None:
    """Records the merge of one group into one layer.

    Raises:
        LatentcError: it is for no linear or convolutional layer, or not of its shape.
    """
    layer: Any = getattr(module, "base_layer", module)
    convolution = isinstance(layer, torch.nn.Conv2d)
    if not convolution and not isinstance(layer, torch.nn.Linear):
        raise LatentcError(
            f"--lora: {subject} is for a {type(layer).__name__}, which lycoris-lora does not merge."
        )
    whole = tuple(layer.weight.shape) if rows is None else (_rows(parts), *layer.weight.shape[1:])
    if rows is not None and "dora_scale" in parts:
        raise LatentcError(
            f"--lora: {subject} is decomposed over layers that are one in the file; that is not merged."
        )
    kernel = tuple(layer.kernel_size) if convolution else None
    names = tuple(parts)
    tensors = tuple(parts.values())
    own = layer.weight.origin if rows is None else None

    def computed(output: int, shape: tuple[int, ...]) -> Recorded:
        bias = layer.bias.origin if layer.bias is not None and rows is None else None
        arguments = (own, bias, names, tensors, whole, kernel, weight)
        return Recorded(Computed(lycoris_merge, arguments, (), output, ir.DataType.FLOAT, shape))

    try:
        _check(layer, names, tensors, whole, kernel)
    except Exception as error:  # Whatever lycoris' constructors and copies make of tensors that do not fit.
        raise LatentcError(
            f"--lora: {subject} does not fit a weight of shape {list(whole)}: {one_line(error)}",
            "It is of another model.",
        ) from error
    if rows is None:
        layer.weight.data = computed(0, whole)
        if "diff_b" in parts and layer.bias is not None:
            layer.bias.data = computed(1, tuple(layer.bias.shape))
    else:
        layer.weight.data = layer.weight + computed(0, whole)[rows[0] : rows[1]]


def _check(
    layer: Any, names: tuple[str, ...], tensors: tuple[Origin, ...], whole: tuple[int, ...], kernel: Any
) -> None:
    """Merges into zeros, so that a group which does not fit is an error now."""
    from compiler.origins.operation_results import as_tensor

    read = tuple(as_tensor(tensor.read(), tensor.dtype) for tensor in tensors)
    merged, _ = lycoris_merge(None, None, names, read, whole, kernel, 1.0)
    if tuple(merged.shape) != whole:
        raise ValueError(f"its difference has the shape {list(merged.shape)}")


def lycoris_merge(
    base: torch.Tensor | None,
    bias: torch.Tensor | None,
    names: tuple[str, ...],
    tensors: tuple[torch.Tensor, ...],
    shape: tuple[int, ...],
    kernel: tuple[int, int] | None,
    weight: float,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weight and the bias of a layer with a group of lycoris-lora's merged in, as that library merges it.

    Args:
        base, bias: float32, of `shape` and [shape[0]]; zeros where None.
        names, tensors: the group's parts.
        kernel: of a convolution; None for a linear layer.
        weight: what the difference is multiplied by.
    """
    from lycoris.modules import get_module, make_module

    base = torch.zeros(shape) if base is None else base
    with torch.device("meta"):
        layer: Any = (
            torch.nn.Linear(shape[1], shape[0], bias=bias is not None)
            if kernel is None
            else torch.nn.Conv2d(shape[1], shape[0], kernel, bias=bias is not None)
        )
    layer.weight = torch.nn.Parameter(base, requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    state = {
        f"layer.{name}": tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in zip(names, tensors, strict=True)
    }
    kind, parameters = get_module(state, "layer")
    adapter = make_module(kind, parameters, "layer", layer)
    if adapter is None:
        raise ValueError(f"lycoris-lora does not merge {', '.join(names)}")
    merged, merged_bias = adapter.get_merged_weight(weight, base.shape, base.device)
    return merged.float(), merged_bias
