"""Numbers that are none: NaN and infinity, found in arrays and refused in weights while they are read."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from artifacts.errors import LatentcError

# Element type -> an unsigned type of its width, the bits that are not its sign, and the bits of infinity: what is
# larger without its sign is NaN. NumPy computes with 16-bit floats element by element, and with integers in vectors.
_BITS: dict[str, tuple[type[np.unsignedinteger], int, int]] = {
    "float16": (np.uint16, 0x7FFF, 0x7C00),
    "bfloat16": (np.uint16, 0x7FFF, 0x7F80),
    "float32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "float64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
}

# Elements looked at together: their copy stays in a processor's cache.
_CHUNK = 1 << 16


def all_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite; integers never are. Needs a few hundred KB beside the array."""
    layout = _layout(array.dtype)
    if layout is not None and array.flags.c_contiguous:
        unsigned, magnitude, infinity = layout
        bits = array.reshape(-1).view(unsigned)
        copy = np.empty(min(_CHUNK, bits.size), unsigned)
        for start in range(0, bits.size, _CHUNK):
            part = bits[start : start + _CHUNK]
            if np.bitwise_and(part, unsigned(magnitude), out=copy[: part.size]).max() >= infinity:
                return False
        return True
    if array.dtype.kind in "biu" or "float" not in array.dtype.name:
        return True
    flat = array.reshape(-1)
    return all(np.isfinite(flat[i : i + _CHUNK]).all() for i in range(0, flat.size, _CHUNK))


@functools.cache  # NumPy makes a type's name anew whenever it is asked for it.
def _layout(dtype: np.dtype[Any]) -> tuple[type[np.unsignedinteger], int, int] | None:
    return _BITS.get(dtype.name)


def require_finite(array: np.ndarray, file: str, key: str) -> None:
    """Refuses a weight as it is stored when it holds NaN or infinity.

    An additive mask, which holds zeros and negative infinity alone, is none.

    Args:
        file, key: where it is stored, for the error.

    Raises:
        LatentcError: it does.
    """
    if all_finite(array) or _is_mask(array):
        return
    nans = int(np.isnan(array).sum())
    infinities = int(array.size - np.isfinite(array).sum()) - nans
    summary = " and ".join(
        f"{name} in {count:,}" for name, count in (("NaN", nans), ("infinity", infinities)) if count
    )
    raise LatentcError(
        f"{file}: the weight '{key}' is not finite: it holds {summary} of its {math.prod(array.shape):,} elements.",
        "The file is damaged or the model's training failed: fetch the model again, or another revision of it.",
    )


def _is_mask(array: np.ndarray) -> bool:
    finite = np.isfinite(array)
    return bool((array[finite] == 0).all() and (array[~finite] == -np.inf).all())
