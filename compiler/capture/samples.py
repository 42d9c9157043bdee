"""Inputs to check a graph with: what the dry run really passed, and noise where it had only its own zeros."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from compiler.capture.calls import sizes
from compiler.capture.infer import Method


def points(method: Method, count: int | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Arrays by input name, one dict for each of the method's recorded shapes (`count` at most).

    Token ids, masks, positions and timesteps are those of the dry run, so that they are in range; the rest is
    standard normal noise with a fixed seed. Where sizes vary, the first point is not the one that was exported.
    """
    order = [*range(1, len(method.shapes)), 0]
    for index in order[:count]:
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
def write_points(method: Method, count: int | None = None) -> Iterator[list[Path]]:
    """The points as npz files in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="latentc-check-") as folder:
        files = []
        for index, arrays in enumerate(points(method, count)):
            files.append(Path(folder) / f"{index}.npz")
            np.savez(files[-1], **arrays)  # type: ignore[arg-type]
        yield files
