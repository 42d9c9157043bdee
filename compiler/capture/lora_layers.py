"""Which layer of a model each matrix of a LoRA is for, told by diffusers' own converters, and which find none.

diffusers' converters take a file as a whole: one key that is not of the layout of the others ends the conversion with
an error, or leaves all the others unconverted. So what is not for this model is found first, and the others are given
to diffusers without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from artifacts.errors import LatentcError
from compiler.origins.computed import stored
from compiler.origins.recorded import Recorded

State = Mapping[str, torch.Tensor]

_PART = re.compile(r"[._]lora\d*[._].*$|\.(?:alpha|dora_scale)$")
"""What follows the name of a layer in a key, by any trainer."""


_WRAPPERS = ("base_model.model.", "diffusion_model.", "module.", "_orig_mod.")
"""What tools put before a path in the component that they train: peft (`save_pretrained`), ComfyUI's nodes, PyTorch's
data parallel and compiled modules."""

_NAMES_IN_PEFT = (
    (re.compile(r"\.lora_(?:A|down)(?:\.\w+)?\.(weight|bias)$"), r".lora_A.\1"),
    (re.compile(r"\.lora_(?:B|up)(?:\.\w+)?\.(weight|bias)$"), r".lora_B.\1"),
    (re.compile(r"\.lora_magnitude_vector(?:\.\w+)*$"), ".lora_magnitude_vector"),
)
"""Parts of a layer behind its path with dots: with the name of an adapter ("lora_A.default.weight"), and without."""


@dataclass(frozen=True)
class Place:
    """What a converted key names: the component, the path of the layer in it, and what follows ("lora_A.weight")."""

    component: str
    path: str
    part: str


class Layers:
    """The layers of a model's components, as they are before libraries wrap them."""

    def __init__(self, modules: Mapping[str, torch.nn.Module]) -> None:
        self._modules = modules
        self._known = {component: dict(module.named_modules()) for component, module in modules.items()}

    def places(self, converted: Iterable[str]) -> dict[str, Place]:
        """Where the keys of a state that diffusers has converted belong; keys of no layer are left out."""
        by_component: dict[str, dict[str, str]] = {}
        for key in converted:
            component, _, rest = key.partition(".")
            if component in self._known:
                by_component.setdefault(component, {})[rest] = key
        result: dict[str, Place] = {}
        for component, keys in by_component.items():
            known = self._known[component]
            for name, key in _named_as_layers(self._modules[component], keys).items():
                path, dot, part = name.partition(".lora_")
                if not dot:
                    path, _, part = name.rpartition(".")
                for candidate in (path, path.removeprefix("text_model.")):
                    if candidate in known:
                        result[key] = Place(component, candidate, f"lora_{part}" if dot else part)
                        break
        return result

    def named(self, state: State, components: Collection[str]) -> dict[str, str]:
        """Names with their component before them for keys that are a path in one, as it is or in a wrapper.

        Args:
            components: those that may be meant.

        Returns:
            Key -> name, for those that fit a layer.

        Raises:
            LatentcError: what has no component before it fits two of them alike.
        """
        own: dict[str, str] = {}  # In their own words: path and part.
        for key in state:
            name = key
            while wrapper := next((w for w in _WRAPPERS if name.startswith(w)), ""):
                name = name.removeprefix(wrapper)
            for pattern, part in _NAMES_IN_PEFT:
                name = pattern.sub(part, name)
            own[key] = name
        by_component: dict[str, dict[str, str]] = {}
        for component in components:
            names = {
                key: name if name.startswith(f"{component}.") else f"{component}.{name}"
                for key, name in own.items()
            }
            tensors = {name: state[key] for key, name in names.items()}
            if len(tensors) < len(names):  # Two adapters in one file.
                continue
            places, fitting = self.places(tensors), self.fitting(tensors)
            by_component[component] = {
                key: f"{component}.{places[name].path}.{places[name].part}"
                for key, name in names.items()
                if name in fitting
            }
        # A name before a path tells the component; a path alone is of the component that has the most of them.
        result = {
            key: name
            for component, names in by_component.items()
            for key, name in names.items()
            if own[key].startswith(f"{component}.")
        }
        bare = {
            component: {key: name for key, name in names.items() if key not in result}
            for component, names in by_component.items()
        }
        most = max(map(len, bare.values()), default=0)
        best = [component for component, names in bare.items() if len(names) == most]
        if most and len(best) > 1:
            raise LatentcError(
                f"--lora: '{next(iter(bare[best[0]]))}' may be of {' or of '.join(map(repr, best))}: each has all "
                "layers that the file names.",
                f"Write the component before the file's keys: '{best[0]}.'",
            )
        return result | (bare[best[0]] if most else {})

    def magnitude(self, layer: str, scale: torch.Tensor) -> torch.Tensor | None:
        """What kohya calls `dora_scale` in the shape of peft's magnitudes; None if it is not one number for each row.

        Args:
            layer: component and path.
            scale: [rows, 1, ...] for the norms of rows; LyCORIS also had such of columns.
        """
        component, _, path = layer.partition(".")
        weight = getattr(self._known[component][path], "weight", None)
        if weight is None or tuple(scale.shape) != (weight.shape[0], *[1] * (weight.dim() - 1)):
            return None
        return scale.flatten() if weight.dim() == 2 else scale.transpose(0, 1)

    def fitting(self, converted: State) -> set[str]:
        """The keys of a converted state whose tensors fit their layer, with all that it takes."""
        places = self.places(converted)
        by_layer: dict[tuple[str, str], dict[str, str]] = {}
        for key, place in places.items():
            by_layer.setdefault((place.component, place.path), {})[place.part] = key
        result: set[str] = set()
        for (component, path), keys in by_layer.items():
            layer = self._known[component][path]
            if _fits(layer, {part: tuple(converted[key].shape) for part, key in keys.items()}):
                result.update(keys.values())
        return result


def _named_as_layers(module: torch.nn.Module, keys: dict[str, str]) -> dict[str, str]:
    """Keys of one component as its layers are called, as diffusers' loaders name them: it differs by the kind of model.

    Args:
        keys: name -> whatever it stands for.
    """
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    if hasattr(module, "load_lora_adapter"):
        converted: dict[str, str] = (
            keys if "lora_A" in next(iter(keys)) else convert_unet_state_dict_to_peft(keys)
        )
        return converted
    try:
        named: dict[str, str] = convert_state_dict_to_peft(convert_state_dict_to_diffusers(dict(keys)))
    except ValueError:  # It is in that form already, or in none.
        return keys
    return named


def _fits(layer: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    down, up = shapes.get("lora_A.weight"), shapes.get("lora_B.weight")
    if down is None and up is None:
        own = dict(layer.named_parameters(recurse=False))
        return all(part in own and tuple(own[part].shape) == shape for part, shape in shapes.items())
    weight = getattr(getattr(layer, "base_layer", layer), "weight", None)
    if down is None or up is None or weight is None or not len(down) == len(up) == weight.dim():
        return False
    rows, *inner = weight.shape
    return up[0] == rows and list(down[1:]) == inner and math.prod(up[1:]) == down[0]


def _is_matrix(state: State, key: str) -> bool:
    return not is_number(state[key].shape)


def is_number(shape: Sequence[int]) -> bool:
    """Whether a tensor is a setting of others (an alpha, a rank, a mark), which becomes part of no weight."""
    return tuple(shape) in ((), (1,))


def converted(pipe: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """What diffusers makes of a LoRA's names: component and path in it, then what peft calls the part."""
    keywords: dict[str, Any] = {}
    if hasattr(pipe, "unet"):
        keywords["unet_config"] = pipe.unet.config
    result = pipe.lora_state_dict(dict(state), **keywords)
    return dict(result[0] if isinstance(result, tuple) else result)


@dataclass(frozen=True)
class Parts:
    """A LoRA's tensors as diffusers reads them.

    Attributes:
        states: each is read by itself.
        misfits: keys of what fits no layer, where something does. They are in no state, or in the only one.
    """

    states: list[State]
    misfits: list[str]


def parts(pipe: Any, layers: Layers, state: State, partial: bool) -> Parts:
    """The tensors of a LoRA in parts that diffusers reads, each by itself, without what fits no layer.

    Where diffusers reads the whole as well as its parts, it is one: what is not known here may be known there. There is
    none where nothing fits.

    Layers of DoRA are read apart from others: diffusers takes all of a state for one or the other.

    Args:
        state: tensors that record, by keys of one file.
        partial: leave out what does not fit even where diffusers may read it: it would refuse the whole.
    """
    state = _with_magnitudes(pipe, layers, state)
    decomposed = {layer_name(key) for key in state if "lora_magnitude_vector" in key}
    kinds = [
        {key: tensor for key, tensor in state.items() if (layer_name(key) in decomposed) is kind}
        for kind in (False, True)
    ]
    parts = [_parts(pipe, layers, kind, partial) for kind in kinds if kind]
    states = [read for part in parts for read in part.states]
    return Parts(states, [key for part in parts for key in part.misfits] if states else [])


def _parts(pipe: Any, layers: Layers, state: State, partial: bool) -> Parts:
    whole = _found(pipe, layers, state)
    rest = {key for key, tensor in state.items() if _is_matrix(state, key)}
    if rest <= whole:
        return Parts([state], [])
    unknown = rest - whole - _alone(pipe, layers, state, rest - whole)
    names = layers.named(
        {key: state[key] for key in state if key in unknown}, getattr(pipe, "_lora_loadable_modules", ())
    )
    keys = {names.get(key, key): key for key in state}
    state, rest = {name: state[key] for name, key in keys.items()}, {names.get(key, key) for key in rest}
    result: list[State] = []
    reached: set[str] = set()
    while rest:
        fitting = _found(pipe, layers, _with_alphas(state, rest))
        # What can be read together, though not with the rest.
        fitting = fitting or _found(pipe, layers, _with_alphas(state, _alone(pipe, layers, state, rest)))
        if not fitting:
            break
        result.append(_with_alphas(state, fitting))
        reached |= fitting
        rest -= fitting
    misfits = [key for name, key in keys.items() if name in rest]
    as_one = not partial and reached and len(reached) <= len(whole)
    return Parts([state] if as_one else result, misfits)


def _with_magnitudes(pipe: Any, layers: Layers, state: State) -> State:
    """The state with layers of DoRA in kohya's names as peft has them.

    diffusers' converters drop what kohya calls `dora_scale`. What they make of the layer's matrices tells whose it is.
    """
    scales = {layer_name(key): key for key in state if key.endswith(".dora_scale")}
    matrices = {
        key
        for key in state
        if layer_name(key) in scales and key not in scales.values() and _is_matrix(state, key)
    }
    fitting = _found(pipe, layers, _with_alphas(state, matrices)) or _alone(pipe, layers, state, matrices)
    if not fitting:
        return state
    result = converted(pipe, _with_alphas(state, fitting))
    places = layers.places(result)
    by_layer: dict[str, dict[str, torch.Tensor]] = {}
    for key, place in places.items():
        for source in stored(result[key].origin) if isinstance(result[key], Recorded) else ():
            name = f"{place.component}.{place.path}.{place.part}"
            by_layer.setdefault(layer_name(source.key), {})[name] = result[key]
    renamed: dict[str, torch.Tensor] = {}
    gone: set[str] = set()
    for layer, tensors in by_layer.items():
        path = {layer_name(name) for name in tensors}
        scale = state[scales[layer]]
        magnitude = layers.magnitude(path.pop(), scale) if len(path) == 1 else None
        if magnitude is not None:  # None: of layers that are one in the file, or of the columns.
            renamed |= tensors | {f"{layer_name(next(iter(tensors)))}.lora_magnitude_vector": magnitude}
            gone.add(layer)
    return {key: tensor for key, tensor in state.items() if layer_name(key) not in gone} | renamed


def _alone(pipe: Any, layers: Layers, state: State, rest: set[str]) -> set[str]:
    """Those of the keys whose layer diffusers reads where it is the only one."""
    by_layer: dict[str, set[str]] = {}
    for key in rest:
        by_layer.setdefault(layer_name(key), set()).add(key)
    return {key for keys in by_layer.values() for key in _found(pipe, layers, _with_alphas(state, keys))}


def _with_alphas(state: State, keys: set[str]) -> State:
    """The tensors of these keys, in the file's order, and the single numbers of their layers."""
    own = {layer_name(key) for key in keys}
    return {
        key: tensor
        for key, tensor in state.items()
        if key in keys or (is_number(tensor.shape) and layer_name(key) in own)
    }


def layer_name(key: str) -> str:
    """What a key says before its part: the tensors of one layer have it in common."""
    return _PART.sub("", key)


def _found(pipe: Any, layers: Layers, state: State) -> set[str]:
    """The keys whose tensors become parts of layers that they fit, with those of the same layer in the file."""
    owners: dict[str, str] = {}
    for key, tensor in state.items():
        if isinstance(tensor, Recorded):
            owners |= {source.key: key for source in stored(tensor.origin)}
    good: set[str] = set()
    bad: set[str] = set()
    try:
        result = converted(pipe, state)
        fitting = layers.fitting(result)
    except Exception:  # Converters raise whatever a name that they do not know leads to.
        return set()
    for key, tensor in result.items():
        if isinstance(tensor, Recorded):
            owned = {owners[source.key] for source in stored(tensor.origin)}
            (good if key in fitting else bad).update(owned)
    wanted = {key for key, tensor in state.items() if _is_matrix(state, key)}
    bad_layers = {layer_name(key) for key in wanted & bad | wanted - good}
    return {key for key in wanted if layer_name(key) not in bad_layers}
