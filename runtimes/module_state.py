"""What has been set on a module since it was built: attention processors, attributes, buffers, hooks.

Some pipelines change a module, call it, and change it back (perturbed attention). The compiler records what was set at
each call; a shell compares what is set on it with what was recorded. Both watch a module in the same way.
"""

from __future__ import annotations

import enum
import inspect
import math
import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from artifacts.call_trees import AnyLeaf, ConstLeaf, MappingNode, ObjectNode, SequenceNode, Tree
from artifacts.manifest import TRUSTED_LIBRARIES
from runtimes.trusted_classes import class_path
from runtimes.value_tree import Mismatch
from runtimes.value_tree import describe as in_words
from runtimes.writes import Writes, is_counted

if TYPE_CHECKING:
    import torch

ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "absent"})()
"""The value of an attribute that is not there."""

AS_BUILT = "as it was built"

_NONE: Mapping[int, Collection[str]] = MappingProxyType({})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_TABLES = ("_modules", "_parameters", "_buffers")

_COUNTED = operator.attrgetter("_version")

# How deep objects in attributes (a processor, a list that it keeps) are looked into.
_DEPTH = 4


@dataclass(frozen=True)
class Field:
    """One attribute of one submodule. `inner` are shallow copies of the containers and objects inside its value."""

    owner: Any
    name: str
    value: Any
    inner: tuple[Any, ...] = ()

    def same(self, other: Field | None) -> bool:
        """Whether both hold the same value, or equal ones that are data."""
        if other is None:
            return False
        if self.value is other.value:
            return _equal(self.inner, other.inner)
        tree = as_data(self.value)
        return tree is not None and tree == as_data(other.value)


class Watch:
    """Tells what others than the module itself have set on it since the watch was made.

    `ours` are attributes that are passed over: id of the module or of a submodule -> their names. `writes`, of
    `runtimes.writes`, count what is written to the module; what they count is not compared.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        ours: Mapping[int, Collection[str]] = _NONE,
        writes: Writes | None = None,
    ) -> None:
        self._module = module
        self._ours = {owner: frozenset(names) for owner, names in ours.items()}
        self._writes = writes or Writes()
        self._built = self._last = self._snapshot()
        self._changed: Mapping[str, Field] = {}

    def changed(self) -> Mapping[str, Field]:
        """Path ("mid_block.attn1.processor") -> what is set there now; the same object until something is set."""
        if not self._last.holds():
            now = self._snapshot()
            changed = dict(self._changed)
            for path in self._last.fields.keys() | now.fields.keys():
                new = now.fields.get(path)
                if new is not None and new.same(self._last.fields.get(path)):
                    continue
                built = self._built.fields.get(path)
                if new is None and built is None or new is not None and new.same(built):
                    changed.pop(path, None)
                else:
                    field = new or built
                    assert field is not None
                    changed[path] = new or Field(field.owner, field.name, ABSENT)
            self._last = now
            self._changed = changed
        return self._changed

    def absorb(self) -> None:
        """What the module has set on itself since the last call of `changed` is not counted."""
        if not self._last.holds():
            self._last = self._snapshot()

    def look_again(self) -> None:
        """Has the next call of `changed` look at everything, whatever was counted."""
        self._writes.note()

    def _snapshot(self) -> _Snapshot:
        import torch

        with (
            torch._C.DisableTorchFunctionSubclass()
        ):  # Compiled modules' tensors report what is done to them.
            return _Snapshot(self._module, self._ours, self._writes)

    def put_back(self, before: Mapping[str, Field]) -> None:
        """Undoes attributes that were set since `changed` gave `before`: a call that failed has not set them back."""
        for path, field in self.changed().items():
            wanted = before.get(path, self._built.fields.get(path))
            if field is wanted or field.name in _HOOKS:
                continue
            if field.name != path.rpartition(".")[2]:  # an entry of a config, which is frozen
                prefix = path.rpartition(".")[0] + "."
                entries = {**self._built.fields, **before}
                whole = {
                    name[len(prefix) :]: entry.value
                    for name, entry in entries.items()
                    if name.startswith(prefix) and entry.value is not ABSENT
                }
                setattr(field.owner, field.name, type(getattr(field.owner, field.name))(whole))
                continue
            if field.value is not ABSENT:
                delattr(field.owner, field.name)
            if wanted is not None and wanted.value is not ABSENT:
                setattr(field.owner, field.name, wanted.value)

    def built(self, path: str) -> Any:
        """What stood at `path` when the watch was made."""
        field = self._built.fields.get(path)
        return ABSENT if field is None else field.value


class _Snapshot:
    """Everything that is set on a module and its submodules."""

    def __init__(self, module: torch.nn.Module, ours: Mapping[int, frozenset[str]], writes: Writes) -> None:
        import torch

        self._writes, self._count = writes, writes.count
        self._live: list[Any] = []
        self._copies: list[Any] = []
        self._empty: list[Any] = []
        self._modules: list[Any] = []
        self._hooks: list[Any] = []
        self._tensors: list[Any] = []
        self._seen: dict[int, tuple[Any, ...]] = {}
        self.fields: dict[str, Field] = {}
        internal = vars(torch.nn.Module()).keys() - {"training"}
        for path, owner in module.named_modules():
            counted = is_counted(owner)
            if not counted:
                self._modules.append(owner)
            prefix = f"{path}." if path else ""
            attributes = vars(owner)
            passed = internal | ours.get(id(owner), frozenset())
            if not counted:
                self._keep(_Others(attributes, ours[id(owner)]) if id(owner) in ours else attributes)
            for name, value in attributes.items():
                if name not in passed:
                    self._add(prefix, owner, name, value)
            for table in _TABLES:
                if not is_counted(attributes[table]):
                    self._keep(attributes[table])
                for name, value in attributes[table].items():
                    if isinstance(value, torch.Tensor) and not is_counted(value):
                        self._tensors.append(value)
                    inner = (
                        () if value is None else (type(value) if table == "_modules" else _version(value),)
                    )
                    self.fields[prefix + name] = Field(owner, name, value, inner)
            if path:  # Those of the module itself run around the compiled call.
                for name in _HOOKS:
                    if not is_counted(attributes[name]):
                        self._hooks.append(attributes[name])
                    if attributes[name]:
                        hooks = tuple(attributes[name].values())
                        self.fields[prefix + name] = Field(owner, name, attributes[name], hooks)
        self._types = list(map(type, self._modules))
        self._counts = list(map(len, self._hooks))
        # Asked before every call of a component: what counts no changes is left out, once.
        self._tensors = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._versions = list(map(_COUNTED, self._tensors))

    def holds(self) -> bool:
        """Whether nothing has been set since."""
        import torch

        try:
            with (
                torch._C.DisableTorchFunctionSubclass()
            ):  # Compiled modules' tensors report what is done to them.
                return (
                    self._writes.count == self._count
                    and not any(self._empty)
                    and all(map(operator.eq, self._live, self._copies))
                    and list(map(len, self._hooks)) == self._counts
                    and list(map(type, self._modules)) == self._types
                    and list(map(_COUNTED, self._tensors)) == self._versions
                )
        except (RuntimeError, ValueError):  # Tensors and arrays do not say whether they are equal.
            return False

    def _add(self, prefix: str, owner: Any, name: str, value: Any) -> None:
        inner = self._inside(value, _DEPTH)
        path = prefix + name
        if type(value) is not dict and isinstance(value, Mapping) and all(_is_key(key) for key in value):
            # Each item by itself: a pipeline that sets one entry of a config replaces the whole config.
            self.fields[path] = Field(owner, name, type(value))
            for key, item in value.items():
                self.fields[f"{path}.{key}"] = Field(owner, name, item, self._inside(item, _DEPTH))
        else:
            self.fields[path] = Field(owner, name, value, inner)

    def _inside(self, value: Any, depth: int) -> tuple[Any, ...]:
        """Shallow copies of the containers inside `value`, which are watched from now on."""
        import torch

        if isinstance(value, torch.Tensor):
            self._tensors.append(value)
            return (_version(value),)
        if value is None or isinstance(value, (bool, int, float, str, torch.nn.Module)) or not depth:
            return ()
        if id(value) not in self._seen:
            self._seen[id(value)] = ()
            container = _container(value)
            if container is not None:
                copy = self._keep(container)
                items = copy.values() if isinstance(copy, dict) else copy
                parts = [self._inside(item, depth - 1) for item in items]
                self._seen[id(value)] = (copy, *(part for part in parts if part))
        return self._seen[id(value)]

    def _keep(self, container: Any) -> Any:
        if isinstance(container, _Others):
            copy: Any = container.named()
        else:
            copy = dict(container) if isinstance(container, Mapping) else list(container)
        if copy or isinstance(container, _Others):
            self._live.append(container)
            self._copies.append(copy)
        else:
            self._empty.append(container)
        return copy


class _Others:
    """The attributes of an object but `ours`; equal to a dict of them."""

    def __init__(self, attributes: Mapping[str, Any], ours: frozenset[str]) -> None:
        self._attributes, self._ours = attributes, ours

    def named(self) -> dict[str, Any]:
        return {name: value for name, value in self._attributes.items() if name not in self._ours}

    def __eq__(self, other: object) -> bool:
        return self.named() == other

    __hash__ = None  # type: ignore[assignment]


def _container(value: Any) -> Any:
    """What can be changed of a value without replacing it: itself, or its attributes."""
    if isinstance(value, (list, dict)):
        return value
    if isinstance(value, (tuple, type, Mapping)) or inspect.isroutine(value) or inspect.ismodule(value):
        return None
    attributes = getattr(value, "__dict__", None)
    return attributes if isinstance(attributes, dict) else None


def _version(tensor: Any) -> int:
    """Counts changes of the tensor in place."""
    return -1 if tensor.is_inference() else int(tensor._version)


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and "." not in key


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError):
        return False


def as_data(value: Any, depth: int = _DEPTH) -> Tree | None:
    """`value` as a tree of numbers, texts and objects of trusted libraries, or None where it is more than that.

    An object's items are its attributes, not its constructor's arguments.
    """
    if value is None or type(value) in (bool, int, str):
        return ConstLeaf(value=value)
    if type(value) is float:
        return ConstLeaf(value=value) if math.isfinite(value) else None
    if not depth:
        return None
    if type(value) in (list, tuple):
        items = [as_data(item, depth - 1) for item in value]
        kind: Any = type(value).__name__
        trees = tuple(item for item in items if item is not None)
        return SequenceNode(kind=kind, items=trees) if len(trees) == len(items) else None
    if type(value) is dict:
        return None if not all(map(_is_key, value)) else _mapping(value, depth)
    return _object(value, depth)


def _mapping(value: Mapping[str, Any], depth: int) -> MappingNode | None:
    items = {key: as_data(item, depth - 1) for key, item in value.items()}
    trees = {key: item for key, item in items.items() if item is not None}
    return MappingNode(items=trees) if len(trees) == len(items) else None


def _object(value: Any, depth: int) -> ObjectNode | None:
    import torch

    cls = type(value)
    trusted = cls.__module__.partition(".")[0] in TRUSTED_LIBRARIES and cls.__qualname__.isidentifier()
    if not trusted or isinstance(value, (type, enum.Enum, torch.Tensor, Mapping)) or inspect.isroutine(value):
        return None
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        return None
    if isinstance(value, torch.nn.Module):
        if any(attributes[name] for name in (*_TABLES, *_HOOKS)):
            return None  # Weights, or other modules.
        attributes = {k: v for k, v in attributes.items() if k not in vars(torch.nn.Module())}
    mapping = _mapping(attributes, depth)
    return None if mapping is None else ObjectNode(class_path=class_path(cls), items=mapping.items)


def mismatch(state: Mapping[str, Tree], watch: Watch) -> Mismatch | None:
    """Why a graph that was recorded with `state` does not answer the module as it is now, if it does not."""
    changed = watch.changed()
    for path, field in changed.items():
        wanted = state.get(path)
        if isinstance(wanted, AnyLeaf):
            continue
        value = as_data(field.value)
        if wanted is None:
            if value is None and "." not in path and watch.built(path) is ABSENT:
                continue  # Another library's bookkeeping around the call (hooks that move modules).
            return Mismatch(path, _as_built(watch, path), _in_words(field.value))
        if value != wanted:
            return Mismatch(path, tree_in_words(wanted), _in_words(field.value))
    for path, tree in state.items():
        if not isinstance(tree, AnyLeaf) and path not in changed:
            return Mismatch(path, tree_in_words(tree), _as_built(watch, path))
    return None


def unrecorded(
    states: Iterable[Mapping[str, Tree]], watch: Watch, before: Mapping[str, Field]
) -> Mismatch | None:
    """What was set since `watch.changed()` gave `before` and is in none of `states`, if anything is."""
    states = tuple(states)
    for path, field in watch.changed().items():
        trees = [state[path] for state in states if path in state]
        value = as_data(field.value)
        if before.get(path) is field or any(isinstance(tree, AnyLeaf) or tree == value for tree in trees):
            continue
        if value is None and "." not in path and watch.built(path) is ABSENT:
            continue  # As in `mismatch`.
        return Mismatch(path, _as_built(watch, path), _in_words(field.value))
    return None


def _as_built(watch: Watch, path: str) -> str:
    return f"{_in_words(watch.built(path))} ({AS_BUILT})"


def _in_words(value: Any) -> str:
    return "nothing" if value is ABSENT else in_words(value)


def tree_in_words(tree: Tree) -> str:
    """A recorded value in a few words."""
    if isinstance(tree, ConstLeaf):
        return repr(tree.value)
    return f"a {tree.class_path.rpartition(':')[2]}" if isinstance(tree, ObjectNode) else f"a {tree.kind}"
