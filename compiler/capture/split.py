"""A component that cannot be one graph, as smaller ones with its own Python between them.

What a module does may depend on values: it packs the tokens that a mask keeps, or runs the experts that a router has
chosen. No graph says that. Such a module is split: its own Python runs, here and in the artifact, and each of its
parts is a graph, or is split in its turn. What has no parts, and hardly any weights, runs in Python alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from artifacts.error_text import causes
from artifacts.errors import LatentcError


@dataclass(frozen=True, order=True)
class Submodule:
    """A component's module, or the submodule of it at `path` ("visual.blocks.0")."""

    component: str
    path: str = ""

    def method(self, name: str) -> str:
        """A method of the part by its name in the component."""
        return f"{self.path}.{name}" if self.path else name

    def __str__(self) -> str:
        return f"{self.component}.{self.path}" if self.path else self.component


class NotOneGraph(LatentcError):
    """`part` cannot be one graph; its parts may be."""

    def __init__(self, part: Submodule, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.part = part


def parts_of(module: torch.nn.Module, path: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that `module` calls, with their paths; lists and dicts of modules are looked through."""
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        if isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict)):
            yield from parts_of(child, below)
        else:
            yield below, child


_FEW_WEIGHTS = 1 << 16


def can_be_split(part: Submodule, module: torch.nn.Module) -> bool:
    """Whether `module`, which is `part`, may run in its own Python: for the graphs of its parts, or because it has none
    and next to no weights, as a table of positions."""
    few = sum(parameter.numel() for parameter in module.parameters()) <= _FEW_WEIGHTS
    return any(parts_of(module)) or (bool(part.path) and few)


def answered_parts(
    part: Submodule, module: torch.nn.Module, split: Collection[Submodule]
) -> Iterator[tuple[Submodule, torch.nn.Module]]:
    """What is a graph of `module`, which is `part`: itself, or what is left of it by `split`."""
    if part not in split:
        yield part, module
        return
    for path, child in parts_of(module, part.path):
        yield from answered_parts(Submodule(part.component, path), child, split)


def decided_by_values(error: BaseException) -> bool:
    """Whether code has asked a tensor without data for its numbers."""
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedFakeTensorException,
    )
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    kinds = (
        DataDependentOutputException,
        DynamicOutputShapeException,
        GuardOnDataDependentSymNode,
        UnsupportedFakeTensorException,
    )
    return any(
        isinstance(link, kinds) or "not supported for tensor subclasses" in str(link)
        for link in causes(error)
    )
