"""What a pipeline had set on a module at a recorded call: found, kept as data, and set again on another instance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from artifacts.call_trees import AnyLeaf, ConstLeaf, MappingNode, ObjectNode, SequenceNode, Tree
from artifacts.errors import LatentcError
from runtimes.module_state import Field, as_data
from runtimes.trusted_classes import import_class
from runtimes.value_tree import describe


class NotData(LatentcError):
    """What a call reads of the pipeline's settings is more than data.

    Attributes:
        hooks: whether these are hooks of a part, which run where that part is called from Python.
    """

    def __init__(self, message: str, hint: str, hooks: bool) -> None:
        super().__init__(message, hint)
        self.hooks = hooks


_LEAVE_OUT = "Leave that out of the call, if the pipeline has an argument for it: --arg NAME=VALUE"
_OWN_WEIGHTS = (
    "Weights that are made during the call are in no graph. Compile what comes before, if the pipeline can end there: "
    "--arg output_type=latent; else run it in PyTorch"
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@contextmanager
def reads(changed: Mapping[str, Field]) -> Iterator[set[str]]:
    """While it is open, those paths of `changed` whose attribute is read, before anything else is put there, are
    added to the set."""
    paths: set[str] = set()
    owners: dict[int, tuple[Any, dict[str, list[str]]]] = {}
    for path, field in changed.items():
        names = owners.setdefault(id(field.owner), (field.owner, {}))[1]
        names.setdefault(field.name, []).append(path)
        if isinstance(field.value, torch.nn.Module):
            names.setdefault("_modules", []).append(path)  # how lists of modules look at their items
    classes = [(owner, type(owner)) for owner, _ in owners.values()]
    try:
        for owner, names in owners.values():
            owner.__class__ = _traced(type(owner), names, paths)
        yield paths
    finally:
        for owner, cls in classes:
            owner.__class__ = cls


def _traced(cls: Any, names: Mapping[str, list[str]], paths: set[str]) -> type:
    written: set[str] = set()

    def __getattribute__(self: Any, name: str) -> Any:
        if name in names and name not in written:
            paths.update(names[name])
        return cls.__getattribute__(self, name)

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if name in names and paths.isdisjoint(names[name]):
            written.add(name)
        cls.__setattr__(self, name, value)

    body = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__getattribute__": __getattribute__,
        "__setattr__": __setattr__,
    }
    return type(cls.__name__, (cls,), body)


def as_state(component: str, method: str, changed: Mapping[str, Field], read: set[str]) -> dict[str, Tree]:
    """Path -> what is set there, as data; a leaf that fits anything where the call does not read it.

    Raises:
        NotData: what the call reads is more than data.
    """
    state: dict[str, Tree] = {}
    for path, field in sorted(changed.items()):
        tree = as_data(field.value) if path in read else AnyLeaf()
        if tree is None:
            raise NotData(
                f"'{component}.{method}' depends on what its pipeline sets at '{path}' for the call "
                f"({describe(field.value)}), which cannot be written down and set again for the graph.",
                _OWN_WEIGHTS if field.name in getattr(field.owner, "_parameters", {}) else _LEAVE_OUT,
                hooks=field.name in _HOOKS,
            )
        state[path] = tree
    return state


def put_state(module: torch.nn.Module, state: Mapping[str, Tree]) -> None:
    """Sets on `module` what was recorded.

    Raises:
        LatentcError: it does not stand there afterwards.
    """
    for path, tree in state.items():
        if isinstance(tree, AnyLeaf):
            continue
        owner, names = _owner(module, path)
        value = _made(tree)
        if len(names) > 1:  # an entry of a config, which is frozen
            whole = getattr(owner, names[0])
            value = type(whole)({**whole, names[1]: value})
        elif names[0] in owner._modules and not isinstance(value, torch.nn.Module):
            delattr(owner, names[0])
        setattr(owner, names[0], value)
        now = getattr(owner, names[0])
        if as_data(now[names[1]] if len(names) > 1 else now) != tree:
            raise LatentcError(
                f"'{path}' of {type(module).__name__} does not keep what its pipeline set there."
            )


def _owner(module: torch.nn.Module, path: str) -> tuple[torch.nn.Module, list[str]]:
    """The submodule that has the attribute, and the attribute's name, with a key of it where there is one."""
    names = path.split(".")
    while len(names) > 1 and isinstance(module._modules.get(names[0]), torch.nn.Module):
        module = module._modules[names.pop(0)]  # type: ignore[assignment]
    return module, names


def _made(tree: Tree) -> Any:
    if isinstance(tree, ConstLeaf):
        return tree.value
    if isinstance(tree, SequenceNode):
        items = [_made(item) for item in tree.items]
        return items if tree.kind == "list" else tuple(items)
    if isinstance(tree, MappingNode):
        return {key: _made(item) for key, item in tree.items.items()}
    assert isinstance(tree, ObjectNode)
    cls: Any = import_class(tree.class_path)
    value = cls.__new__(cls)
    if isinstance(value, torch.nn.Module):
        torch.nn.Module.__init__(value)
    vars(value).update({name: _made(item) for name, item in tree.items.items()})
    return value
