"""The form of a call: a later one of the same form holds its graph's inputs in the same places, unseen otherwise.

A call is taken apart once, by the record that answers it. What that depends on is kept here: names, types, constants,
and tensors' dtypes and shapes. Where they are the same again, so is every answer to what was asked of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from artifacts.call_trees import (
    AnyLeaf,
    ComplexLeaf,
    ConstLeaf,
    MappingNode,
    SequenceNode,
    SizeLeaf,
    TensorLeaf,
    Tree,
)
from artifacts.manifest import TensorSpec
from runtimes.torch_arrays import from_tensor
from runtimes.value_tree import Mismatch, to_array

if TYPE_CHECKING:
    import numpy as np

Take = Callable[[Any, "dict[str, np.ndarray]"], bool]
"""Puts a value's tensors into a dict, as the graph's inputs; False where the value is of another form."""

_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class CallForm:
    """What arguments are like, in the order in which a caller writes them.

    Attributes:
        positional: how many have no name.
        names: of the others.
        takes: one for each argument.
    """

    positional: int
    names: tuple[str, ...]
    takes: tuple[Take, ...]

    def arrays(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """The graph's inputs in a call, on the arguments' own memory where their dtypes allow; None where the call is
        of another form."""
        if len(args) != self.positional or tuple(kwargs) != self.names:
            return None
        arrays: dict[str, np.ndarray] = {}
        for take, value in zip(self.takes, (*args, *kwargs.values()), strict=True):
            if not take(value, arrays):
                return None
        return arrays


def form_of(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    trees: Sequence[Tree | None],
    specs: Mapping[str, TensorSpec],
    values_matter: bool,
) -> CallForm | None:
    """The form of a call that a record fits; None where more than its form decided about that.

    Args:
        trees: the record's, one for each argument; None for what it does not know, which is at its default.
        specs: the graph's inputs. What of the record's tensors is none of them is not taken.
        values_matter: whether another record, which comes first, did not fit and may have looked at more than dtypes
            and shapes: what this one passes over is constant then, and a form with numbers is none.
    """
    takes = [
        _take(tree, value, specs, values_matter)
        for tree, value in zip(trees, (*args, *kwargs.values()), strict=True)
    ]
    whole = tuple(take for take in takes if take is not None)
    return CallForm(len(args), tuple(kwargs), whole) if len(whole) == len(takes) else None


def _take(tree: Tree | None, value: Any, specs: Mapping[str, TensorSpec], values_matter: bool) -> Take | None:
    if isinstance(tree, AnyLeaf) and not values_matter:
        return _passed_over
    if tree is None or isinstance(
        tree, (AnyLeaf, ConstLeaf, SizeLeaf)
    ):  # Tensors keep their sizes in a form.
        return _constant(value) if type(value) in _PLAIN else None
    if isinstance(tree, (TensorLeaf, ComplexLeaf)):
        spec = specs.get(tree.name)
        if type(value) not in (int, float):
            return _tensor(value, spec, values_matter)
        if spec is None:
            return _constant(value)
        return None if values_matter else _number(type(value), spec)
    if isinstance(tree, SequenceNode):
        children = [
            _take(child, item, specs, values_matter) for child, item in zip(tree.items, value, strict=True)
        ]
        items = tuple(child for child in children if child is not None)
        return _sequence(type(value), items) if len(items) == len(children) else None
    if isinstance(tree, MappingNode) and type(value) is dict:
        named = {key: _take(tree.items.get(key), item, specs, values_matter) for key, item in value.items()}
        takes = {key: child for key, child in named.items() if child is not None}
        return _mapping(takes) if len(takes) == len(named) else None
    return None


def _passed_over(value: Any, arrays: dict[str, np.ndarray]) -> bool:
    return True


def _constant(constant: Any) -> Take:
    kind = type(constant)

    def take(value: Any, arrays: dict[str, np.ndarray]) -> bool:
        return value is constant or type(value) is kind and value == constant

    return take


def _number(kind: type, spec: TensorSpec) -> Take:
    def take(value: Any, arrays: dict[str, np.ndarray]) -> bool:
        if type(value) is not kind:
            return False
        array = to_array(value, spec, spec.name)
        if isinstance(array, Mismatch):
            return False
        arrays[spec.name] = array
        return True

    return take


def _tensor(tensor: Any, spec: TensorSpec | None, values_matter: bool) -> Take | None:
    """Takes tensors like this one, as `to_array` would; without a spec they are none of the graph's."""
    import torch

    kind = type(tensor)
    if kind not in (torch.Tensor, torch.nn.Parameter) or not tensor.is_cpu or tensor.requires_grad:
        return None
    dtype, shape = tensor.dtype, tensor.shape

    def is_alike(value: Any) -> bool:
        return (
            type(value) is kind
            and value.dtype is dtype
            and value.shape == shape
            and value.is_cpu
            and not value.requires_grad
        )

    if spec is None:
        return lambda value, arrays: is_alike(value)
    name, wanted = spec.name, getattr(torch, spec.dtype)
    cast = dtype is not wanted
    rounds = cast and dtype.is_floating_point and not wanted.is_floating_point
    if dtype.is_complex or (rounds and values_matter):
        return None
    # A single element gets the rank that the graph asks for.
    rank = (1,) * len(spec.shape) if len(shape) != len(spec.shape) else None

    def take(value: Any, arrays: dict[str, np.ndarray]) -> bool:
        if not is_alike(value):
            return False
        whole = value.to(wanted) if cast else value
        if rounds and bool((whole != value).any()):
            return False
        array = from_tensor(whole.contiguous())
        arrays[name] = array if rank is None else array.reshape(rank)
        return True

    return take


def _sequence(kind: Any, items: tuple[Take, ...]) -> Take:
    def take(value: Any, arrays: dict[str, np.ndarray]) -> bool:
        if type(value) is not kind or len(value) != len(items):
            return False
        return all(child(item, arrays) for child, item in zip(items, value, strict=True))

    return take


def _mapping(items: Mapping[str, Take]) -> Take:
    def take(value: Any, arrays: dict[str, np.ndarray]) -> bool:
        if type(value) is not dict or value.keys() != items.keys():
            return False
        return all(child(value[key], arrays) for key, child in items.items())

    return take
