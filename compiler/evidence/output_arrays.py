"""The arrays in what a pipeline returns, and how far they are from those that are expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from artifacts.errors import LatentcError
from compiler.evidence.metrics import relative_error


def drawn_arrays(task: str, draw: Any) -> dict[str, np.ndarray]:
    """The arrays in what `draw()` returns.

    Raises:
        LatentcError: the artifact does not draw the task.
    """
    import torch

    try:
        with torch.no_grad():
            return arrays_in(draw())
    except LatentcError as error:
        raise LatentcError(
            f"the artifact does not draw {task} as it was compiled: {error.message}",
            error.hint or "Please report the model.",
        ) from error


def arrays_in(value: Any, path: str = "picture") -> dict[str, np.ndarray]:
    """Every array, tensor and PIL image in a pipeline's output, by its place there."""
    return dict(_nested_arrays(value, path))


def _nested_arrays(value: Any, path: str) -> Iterable[tuple[str, np.ndarray]]:
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    elif hasattr(value, "getbands"):
        value = np.asarray(value, np.float32) / 255
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        yield path, value.astype(np.float32, copy=False)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _nested_arrays(item, str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _nested_arrays(item, f"{path}[{number}]")


def held_error(
    subject: str, outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float
) -> float:
    """The largest error of any output.

    Raises:
        LatentcError: it is over `tolerance`, or other outputs came than were expected.
    """
    worst = 0.0
    for name, array in expected.items():
        error = relative_error(outputs[name], array) if name in outputs else float("nan")
        if not error <= tolerance:
            figure = f"relative error {error:.2g}" if error == error else "another shape, or not finite"
            raise LatentcError(
                f"{subject} is not PyTorch's: {figure}; at most {tolerance:g} is allowed.",
                "Compile it in --precision fp32; if it fails there too, please report the model.",
            )
        worst = max(worst, error)
    return worst
