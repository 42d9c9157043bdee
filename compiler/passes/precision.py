"""What both precision passes share: ranges of element types, and which weights do not fit one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from artifacts.errors import UsageError
from artifacts.progress import Event, Progress, silent
from targets.graph.constants import is_small
from targets.graph.weights import Joined, WeightRef

LOWER: dict[str, ir.DataType] = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
"""Precision, as a user names it -> element type."""


def element_type(precision: str) -> ir.DataType:
    """The element type of "fp16" or "bf16".

    Raises:
        UsageError: it is neither.
    """
    if precision not in LOWER:
        raise UsageError(f"there is no precision '{precision}' below fp32 (there are: {', '.join(LOWER)}).")
    return LOWER[precision]


def largest(dtype: ir.DataType) -> float:
    """The largest finite number of a floating-point type."""
    return float(ml_dtypes.finfo(dtype.numpy()).max)


def smallest(dtype: ir.DataType) -> float:
    """The smallest positive number of a floating-point type, subnormals included."""
    return float(ml_dtypes.finfo(dtype.numpy()).smallest_subnormal)


def fits(array: np.ndarray, dtype: ir.DataType) -> bool:
    """Whether no finite element becomes infinite and no element but zero becomes zero."""
    size = np.abs(array[np.isfinite(array) & (array != 0)])
    return not size.size or bool(size.max() <= largest(dtype) and size.min() >= smallest(dtype))


def _range_fits(weight: WeightRef, dtype: ir.DataType) -> bool:
    """Whether the source's own type already says that the weight fits; reads nothing."""
    source = weight.source
    types = [part.dtype for part in source.parts] if isinstance(source, Joined) else [source.dtype]
    return dtype == ir.DataType.BFLOAT16 or all(t == dtype for t in types)


def audit(weight: ir.TensorProtocol, precision: str) -> float | None:
    """The weight's largest absolute value when that is too large for `precision`, otherwise None.

    Reads the weight, once and whole, unless its stored type already answers; one that is computed is computed
    only where what it is made of does not answer.
    """
    dtype = element_type(precision)
    if isinstance(weight, WeightRef):
        if _range_fits(weight, dtype):
            return None
        bound = weight.bound()
        if bound is not None and bound <= largest(dtype):
            return None
    array = weight.numpy()
    largest_seen = float(np.max(np.abs(array), initial=0.0))
    return largest_seen if not largest_seen <= largest(dtype) else None


def out_of_range(
    model: ir.Model, precision: str, progress: Progress = silent, *, read_weights: bool = True
) -> dict[str, float]:
    """The fp32 weights that `precision` cannot hold: initializer name -> largest absolute value.

    Reads one weight at a time and keeps none. Those whose stored type answers are not read.

    Args:
        read_weights: without it weights on disk count as within; constants in memory are still looked at.
    """
    peaks: dict[str, float] = {}
    weights = [(n, w) for n, w in _float_weights(model) if read_weights or is_small(w)]
    total = float(sum(w.nbytes for _, w in weights))
    done = 0.0
    for name, weight in weights:
        peak = audit(weight, precision)
        if peak is not None:
            peaks[name] = peak
        done += weight.nbytes
        progress(Event(f"checking weights for {precision}", done, total, "bytes"))
    return peaks


def _float_weights(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for name, value in model.graph.initializers.items():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            yield name, value.const_value


def lowered(
    tensor: ir.TensorProtocol, dtype: ir.DataType, cast: Callable[[WeightRef], WeightRef]
) -> ir.TensorProtocol:
    """A constant in another floating-point type; a weight stays lazy."""
    if isinstance(tensor, WeightRef):
        return cast(tensor)
    return ir.Tensor(saturated(tensor.numpy(), dtype), name=tensor.name)


# A finite float32 beyond this means "the lowest there is", as attention masks are written.
EXTREME = 1e30


def saturated(array: np.ndarray, dtype: ir.DataType) -> np.ndarray:
    """The array in `dtype`, where finite values beyond its range become the largest; infinities stay.

    Extremes become half the largest: scores are added to them, and a sum that overflows in a row that is
    masked from end to end would give NaN.
    """
    top = largest(dtype)
    size = np.abs(array)
    clipped = np.where(np.isfinite(array), np.clip(array, -top, top), array)
    if dtype == ir.DataType.FLOAT16:
        clipped = np.where(np.isfinite(array) & (size >= EXTREME), np.copysign(top / 2, array), clipped)
    return clipped.astype(dtype.numpy()).reshape(array.shape)
