"""The contract of a data-aware method, which chooses the values of int4 weights by what they are multiplied with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from targets.target_contract import Availability

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Weight:
    """A weight to be put in four bits: the initializer's name, elements to a scale, and whether with zero points.

    It is the second input of one MatMul or Gemm.
    """

    name: str
    group: int
    asymmetric: bool


@dataclass(frozen=True)
class Values:
    """A weight in four bits.

    Attributes:
        values: int8 [rows, inner] of -8..7, or uint8 of 0..15 where there are zero points.
        scale: float32 [rows, inner / group].
        zero: uint8 [rows, inner / group], or None.
        inputs: float32 [inner], what the product's input is to be multiplied by, or None.
    """

    values: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    inputs: np.ndarray | None


class DataAwareMethod(Protocol):
    """What a line of `compiler.quantize.method_table` names. A target takes it by `requirements.methods`."""

    @property
    def name(self) -> str:
        """What the option ``method`` of int4 calls it."""

    def available(self) -> Availability:
        """Whether it can be used here; if not, the reason and the install command; never raises."""

    def toolchain(self) -> Mapping[str, str]:
        """Package -> version of what shapes the result."""

    def compress(
        self, model_file: Path, weights: Sequence[Weight], calls: Sequence[Mapping[str, np.ndarray]]
    ) -> Iterator[tuple[Weight, Values]]:
        """What the method makes of the weights, given inputs that the graph is called with.

        It may hold the whole graph several times over: run it in a process of its own. Weights that it leaves out do
        not come back.

        Args:
            model_file: the float graph, as a target that takes the method writes it, or its stand-in.
            calls: input name -> array, for each call.

        Raises:
            RuntimeError: it cannot work on the graph.
        """
