"""What stands for, or is added to, the safetensors of a component's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from targets.graph.weights import Origin, Stored


class WeightFiles(Protocol):
    """Files that a component's weights are made of. Frozen."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, for their hashes."""

    def tensors(self, cls: type, folder: Path) -> Mapping[str, Origin]:
        """Every weight of a component by its name in the module.

        Args:
            cls: the component's class.
            folder: the folder of its config.json.

        Raises:
            LatentcError: the files do not hold them, or cannot be read.
        """


@dataclass(frozen=True)
class Rows:
    """Rows [tokens, width] that stand in a table from the row `start` on."""

    tensor: Stored
    start: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.tensor.shape[0] if len(self.tensor.shape) > 1 else 1

    @property
    def end(self) -> int:
        """The row after the last."""
        return self.start + self.count
