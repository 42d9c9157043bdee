"""Results of a small graph on seeded weights and inputs, and whether two such results are the same."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from compiler.capture.infer import Method
from targets.graph.model_copy import copy_of

PARAMETERS = 20_000_000
"""Graphs of more are not run: a check of a full-size graph should need no more memory than its graph."""
FLOPS = 100_000_000_000
"""Nor are graphs of more work: an autoencoder of few parameters takes minutes for a large picture."""

# Of the spread of a result. Kernels of different CPUs differ by 1e-5, a wrong graph by 1.
_TOLERANCE = 2e-3

_FIGURE = re.compile(r"(mean|spread|place)=(\S+)")


def measure(model: ir.Model, method: Method) -> tuple[str, ...]:
    """One line for each output: its mean, its spread, and a weighted sum that tells places apart.

    Args:
        model: the target-neutral graph, whose weights are `targets.graph.weights.Seeded`.
    """
    from compiler import stand_in
    from compiler.capture.samples import points

    with stand_in.opened(copy_of(model)) as session:
        results = session.run(next(points(method)))
    return tuple(_line(name, array) for name, array in sorted(results.items()))


def _line(name: str, array: np.ndarray) -> str:
    wide = array.astype(np.float64).reshape(-1)
    if not np.isfinite(wide).all():
        return f"{name} {list(array.shape)} not finite"
    place = np.mean(wide * np.cos(np.arange(wide.size)))
    figures = {"mean": np.mean(wide), "spread": np.std(wide), "place": place}
    # Adding zero: minus nothing is nothing.
    texts = (f"{key}={round(float(value), 5) + 0.0:.5g}" for key, value in figures.items())
    return " ".join((name, str(list(array.shape)), *texts))


def differs(a: str, b: str) -> bool:
    """Whether two lines of `measure` are of different results, and not of different machines."""
    old, new = (dict(_FIGURE.findall(line)) for line in (a, b))
    if _FIGURE.sub("", a) != _FIGURE.sub("", b) or old.keys() != new.keys():
        return True
    limit = _TOLERANCE * max(float(old.get("spread", 0)), 1e-3)
    return any(abs(float(old[key]) - float(new[key])) > limit for key in old)
