"""Arguments and results taken apart into trees (`artifacts.call_trees.Tree`) and named tensors."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from artifacts.call_trees import (
    AnyLeaf,
    ComplexLeaf,
    ConstLeaf,
    MappingNode,
    ObjectNode,
    SequenceNode,
    SizeLeaf,
    TensorLeaf,
    Tree,
)
from runtimes.trusted_classes import class_path

Path = tuple[str | int, ...]

INTEROP_INPUTS: dict[tuple[str, str], str] = {
    # (method, argument) -> the name that optimum and openvino_genai use for a VAE's inputs; for every other
    # input they use diffusers' and transformers' own argument names, as we do.
    ("encode", "x"): "sample",
    ("decode", "z"): "latent_sample",
}
INTEROP_OUTPUTS: dict[tuple[str, str], str] = {
    # The same for results, by method and the last name on the way to the tensor.
    ("encode", "parameters"): "latent_parameters",
    ("encode", "latents"): "latent_sample",
}


@dataclass
class Flat:
    """A value as a tree. `tensors` and `numbers` are in the tree's order; numbers are constants in the tree, complex
    tensors are real ones with a last axis of 2."""

    tree: Tree
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    numbers: dict[Path, int | float] = field(default_factory=dict)


class _Flattener:
    def __init__(self, rename: Mapping[str, str], taken: frozenset[str], join: str) -> None:
        self.rename, self.taken, self.join = rename, taken, join
        self.tensors: dict[str, torch.Tensor] = {}
        self.numbers: dict[Path, int | float] = {}

    def visit(self, value: Any, path: Path) -> Tree:
        if isinstance(value, torch.Tensor) and value.is_complex():
            return ComplexLeaf(name=self._name(path, torch.view_as_real(value)))
        if isinstance(value, torch.Tensor):
            return TensorLeaf(name=self._name(path, value))
        if value is None or isinstance(value, (bool, str)):
            return ConstLeaf(value=value)
        if isinstance(value, (int, float)):
            self.numbers[path] = value
            return ConstLeaf(value=value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and isinstance(value, Mapping):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            items = {n: self.visit(v, (*path, n)) for n, v in fields.items() if v is not None}
            return ObjectNode(class_path=class_path(type(value)), items=items)
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return MappingNode(items={key: self.visit(item, (*path, key)) for key, item in value.items()})
        if isinstance(value, (list, tuple)):
            kind: Any = "list" if isinstance(value, list) else "tuple"
            return SequenceNode(
                kind=kind, items=tuple(self.visit(v, (*path, i)) for i, v in enumerate(value))
            )
        built = _constructor_arguments(value)
        if built is not None and any(isinstance(item, torch.Tensor) for item in built.values()):
            items = {name: self.visit(item, (*path, name)) for name, item in built.items()}
            return ObjectNode(class_path=class_path(type(value)), items=items)
        return AnyLeaf()

    def _name(self, path: Path, value: torch.Tensor) -> str:
        words = [str(part) for part in path]
        named = [i for i, part in enumerate(path) if isinstance(part, str)]
        last = self.join.join(words[named[-1] :] if named else ["output", *words])
        name = self.rename.get(last, last)
        if name in self.tensors:
            name = "_".join(words)
        if name in self.taken:
            name = f"out_{name}"
        base, number = name, 2
        while name in self.tensors or name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.tensors[name] = value
        return name


def _constructor_arguments(value: Any) -> dict[str, Any] | None:
    """What rebuilds `value`: its constructor's parameters, when it keeps each as an attribute of that name."""
    try:
        parameters = list(inspect.signature(type(value).__init__).parameters.values())[1:]
    except (TypeError, ValueError):
        return None
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if not parameters or any(p.kind not in plain or p.name not in vars_of(value) for p in parameters):
        return None
    return {p.name: vars_of(value)[p.name] for p in parameters}


def vars_of(value: Any) -> dict[str, Any]:
    """The instance attributes of any object; empty where it has none."""
    return getattr(value, "__dict__", {})


def flatten_arguments(method: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Tree], Flat]:
    """A call's bound arguments -> a tree for each, and all their tensors and numbers.

    Tensors are called by the last argument or key name on the way to them, with indexes after it.
    """
    visitor = _Flattener({a: n for (m, a), n in INTEROP_INPUTS.items() if m == method}, frozenset(), "_")
    trees = {name: visitor.visit(value, (name,)) for name, value in arguments.items()}
    return trees, Flat(MappingNode(items=trees), visitor.tensors, visitor.numbers)


def flatten_result(method: str, result: Any, taken: frozenset[str], names: list[str] | None = None) -> Flat:
    """A call's result. `taken` are names of inputs; `names` name the tensors of a result that has none."""
    visitor = _Flattener(
        {a: n for (m, a), n in INTEROP_OUTPUTS.items() if m == method}, taken, "."
    )  # "hidden_states.11", as optimum
    tree = visitor.visit(result, ())
    if names is not None and len(names) == len(visitor.tensors):
        tree = _renamed(tree, dict(zip(visitor.tensors, names, strict=True)))
        return Flat(tree, dict(zip(names, visitor.tensors.values(), strict=True)), visitor.numbers)
    return Flat(tree, visitor.tensors, visitor.numbers)


def _renamed(tree: Tree, names: Mapping[str, str]) -> Tree:
    if isinstance(tree, TensorLeaf):
        return TensorLeaf(name=names[tree.name], number=tree.number)
    if isinstance(tree, ComplexLeaf):
        return ComplexLeaf(name=names[tree.name])
    if isinstance(tree, SequenceNode):
        return SequenceNode(kind=tree.kind, items=tuple(_renamed(item, names) for item in tree.items))
    if isinstance(tree, MappingNode):
        return MappingNode(items={key: _renamed(item, names) for key, item in tree.items.items()})
    if isinstance(tree, ObjectNode):
        items = {key: _renamed(item, names) for key, item in tree.items.items()}
        return ObjectNode(class_path=tree.class_path, items=items)
    return tree


def as_tuple(tree: Tree) -> Tree | None:
    """The tuple of what an output dataclass holds, which is what `return_dict=False` gives; None for other trees."""
    return (
        SequenceNode(kind="tuple", items=tuple(tree.items.values())) if isinstance(tree, ObjectNode) else None
    )


def with_number(tree: Tree, path: Path, name: str) -> Tree:
    """`tree` with the constant at `path` made an input called `name` that the caller passes as a number."""
    return with_leaf(tree, path, TensorLeaf(name=name, number=True))


def with_leaf(tree: Tree, path: Path, leaf: TensorLeaf | SizeLeaf) -> Tree:
    """`tree` with `leaf` in place of the constant at `path`."""
    if not path:
        return leaf
    head, rest = path[0], path[1:]
    if isinstance(tree, SequenceNode):
        items = [with_leaf(t, rest, leaf) if i == head else t for i, t in enumerate(tree.items)]
        return SequenceNode(kind=tree.kind, items=tuple(items))
    if isinstance(tree, (MappingNode, ObjectNode)):
        changed = {k: with_leaf(t, rest, leaf) if k == head else t for k, t in tree.items.items()}
        return tree.model_copy(update={"items": changed})
    return tree


def rebuild(tree: Tree, tensors: Mapping[str, Any]) -> Any:
    """The arguments of a call, from tensors by name; what a graph does not depend on becomes None."""
    if isinstance(tree, TensorLeaf):
        return tensors[tree.name]
    if isinstance(tree, SizeLeaf):
        return tensors[tree.name].shape[tree.axis]
    if isinstance(tree, ComplexLeaf):
        return torch.view_as_complex(tensors[tree.name])
    if isinstance(tree, ConstLeaf):
        return tree.value
    if isinstance(tree, SequenceNode):
        items = [rebuild(item, tensors) for item in tree.items]
        return items if tree.kind == "list" else tuple(items)
    if isinstance(tree, MappingNode):
        return {key: rebuild(item, tensors) for key, item in tree.items.items()}
    if isinstance(tree, ObjectNode):
        from runtimes.trusted_classes import import_class

        return import_class(tree.class_path)(
            **{key: rebuild(item, tensors) for key, item in tree.items.items()}
        )
    return None


def map_tensors(value: Any, change: Any) -> Any:
    """`value` with ``change(tensor)`` in place of every tensor in lists, tuples, dicts and output dataclasses."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and isinstance(value, Mapping):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return type(value)(**{name: map_tensors(item, change) for name, item in fields.items()})
    if isinstance(value, Mapping):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [map_tensors(item, change) for item in value]
        return items if isinstance(value, list) else tuple(items)
    built = _constructor_arguments(value)
    if built is not None and any(isinstance(item, torch.Tensor) for item in built.values()):
        return type(value)(**{name: map_tensors(item, change) for name, item in built.items()})
    return value


def leaves(value: Any) -> list[torch.Tensor]:
    """Every tensor of `value`, in the order of its tree."""
    tensors: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(value, keep)
    return tensors
