"""What is set on a module and is an input of its graph all the same: how strong an IP-Adapter is, rows of a table.

Each such setting is an attribute of submodules, by which pipelines and their loaders set it: a number or a list of
numbers on each of them, or a tensor on one. The input is a float32: a row for each submodule, or the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import torch

Settings = Mapping[str, tuple[str, ...]]
"""Name of an input -> paths of the attributes that it is ("mid_block.attn2.processor.scale")."""

_DECLARED: WeakKeyDictionary[Any, dict[str, tuple[str, list[Any]]]] = WeakKeyDictionary()


def declare(module: torch.nn.Module, name: str, attribute: str, owners: Sequence[torch.nn.Module]) -> None:
    """Has the attribute of `owners`, submodules of `module`, be the input `name` of graphs of `module`."""
    _DECLARED.setdefault(module, {})[name] = (attribute, list(owners))


def of(module: Any) -> Settings:
    """The settings of a module; none of most."""
    try:
        declared = _DECLARED.get(module, {})
    except TypeError:  # a thing of no weak references, which is no module
        return {}
    result = {}
    for name, (attribute, owners) in declared.items():
        ours = {id(owner) for owner in owners}
        paths = (path for path, part in module.named_modules() if id(part) in ours)
        result[name] = tuple(f"{path}.{attribute}" for path in paths)
    return result


def values(module: torch.nn.Module, settings: Settings) -> dict[str, torch.Tensor] | str:
    """Each input as it is set now; or, as a text, what is set that is none."""
    import torch

    result: dict[str, torch.Tensor] = {}
    for name, paths in settings.items():
        set_there = [(path, *_place(module, path)) for path in paths]
        value = set_there[0][1].__dict__.get(set_there[0][2])
        if isinstance(value, torch.Tensor):
            result[name] = value.detach().float()
            continue
        rows: list[list[float]] = []
        for path, owner, attribute in set_there:
            value = owner.__dict__.get(attribute)
            row: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
            plain = all(isinstance(item, (int, float)) and abs(item) < float("inf") for item in row)
            if not plain or (rows and len(row) != len(rows[0])):
                return f"{path} is {value!r}, not a number for each input"
            rows.append([float(item) for item in row])
        result[name] = torch.tensor(rows, dtype=torch.float32)
    return result


@contextmanager
def applied(
    module: torch.nn.Module, settings: Settings, tensors: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """While it is open, the settings are the tensors of their names."""
    with ExitStack() as stack:
        for name, paths in settings.items():
            for number, path in enumerate(paths):
                owner, attribute = _place(module, path)
                before, tensor = owner.__dict__[attribute], tensors[name]
                stack.callback(owner.__dict__.__setitem__, attribute, before)
                if hasattr(before, "detach"):
                    owner.__dict__[attribute] = tensor
                else:
                    factors = [Factor(tensor[number, column]) for column in range(tensor.shape[1])]
                    owner.__dict__[attribute] = factors if isinstance(before, list) else factors[0]
        yield


class Factor:
    """A number in a tensor that only multiplies: what is done where it equals 0 cannot be told without its value."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __mul__(self, other: Any) -> Any:
        return self._tensor * other

    __rmul__ = __mul__


def _place(module: torch.nn.Module, path: str) -> tuple[torch.nn.Module, str]:
    prefix, _, attribute = path.rpartition(".")
    return module.get_submodule(prefix), attribute
