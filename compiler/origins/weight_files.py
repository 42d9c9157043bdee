"""The contract of weights that are not safetensors of a component's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from targets.graph.weights import Origin


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
