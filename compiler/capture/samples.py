"""Inputs to check a graph with: what the dry run really passed, and noise where it had only its own zeros."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from artifacts.temporary import private_folder
from compiler.capture.calls import sizes
from compiler.capture.infer import Method


def order(method: Method) -> list[int]:
    """The method's recorded shapes by number; where sizes vary, the first is not the one that was exported."""
    return [*range(1, len(method.shapes)), 0]


def ends(method: Method) -> list[int]:
    """The numbers of the recorded shapes in the declared ranges, from the smallest call to the largest."""

    def elements(index: int) -> int:
        return sum(math.prod(sizes(spec, method.shapes[index])) for spec in (*method.inputs, *method.outputs))

    def declared(index: int) -> bool:
        return all(
            method.dims[dim].min <= size <= method.dims[dim].max
            for dim, size in method.shapes[index].items()
            if dim in method.dims
        )

    return sorted(filter(declared, range(len(method.shapes))), key=elements)


def points(method: Method, numbers: Sequence[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Arrays by input name, one dict for each of the method's recorded shapes.

    Args:
        numbers: of the shapes; None for all in `order`.

    Token ids, masks, positions and timesteps are those of the dry run, so that they are in range; the rest is
    standard normal noise with a fixed seed.
    """
    for index in order(method) if numbers is None else numbers:
        generator = np.random.default_rng(index)
        arrays: dict[str, np.ndarray] = {}
        for spec in method.inputs:
            value = method.values[index].get(spec.name)
            if value is not None:
                arrays[spec.name] = value.detach().numpy().astype(spec.dtype)
            elif spec.dtype.startswith("float"):
                arrays[spec.name] = generator.standard_normal(sizes(spec, method.shapes[index])).astype(
                    spec.dtype
                )
            else:
                arrays[spec.name] = np.zeros(sizes(spec, method.shapes[index]), spec.dtype)
        yield arrays


@contextmanager
def write_points(method: Method, numbers: Sequence[int] | None = None) -> Iterator[list[Path]]:
    """The points as npz files in a temporary folder."""
    with private_folder() as folder:
        files = []
        for index, arrays in enumerate(points(method, numbers)):
            files.append(folder / f"{index}.npz")
            np.savez(files[-1], **arrays)  # type: ignore[arg-type]
        yield files
