"""Weights that several constants hold parts of, put together again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from artifacts.adaptable import Adaptable, Constant, Expression, Part
from artifacts.errors import LatentcError
from compiler.adaptable.steps import boxed, recorded
from compiler.adaptable.weight_constants import GraphConstants, Restored
from runtimes.sessions.file_constants import StoredConstant
from targets.graph.weights import Cast, Reshape, Slice, Transform, Transpose

WEIGHT = np.arange(24, dtype=np.float32).reshape(6, 4)
HALF = Cast(ir.DataType.FLOAT16)


def graph(*chains: tuple[Transform, ...]) -> GraphConstants:
    """A graph whose constants the chains make of `WEIGHT`."""
    constants, stored = [], {}
    for number, chain in enumerate(chains):
        array = WEIGHT
        for step in chain:
            array = step.apply(array)
        records = recorded(chain)
        assert records is not None
        name = f"constant{number}"
        constants.append(Constant(name=name, made_of=Expression(parts=(Part(weight="w", steps=records),))))
        data = np.ascontiguousarray(array).tobytes()
        stored[name] = StoredConstant(array.dtype.name, array.shape, len(data), data=data)
    adaptable = Adaptable(
        constants=tuple(constants), quantized=(), weights={"w": WEIGHT.shape}, kept=(), fixed=()
    )
    return GraphConstants("unet", Path("unet"), adaptable, stored)


TOP, BOTTOM = Slice(0, 0, 4), Slice(0, 4, 6)


@pytest.mark.parametrize(
    "chains",
    [
        [(HALF,)],
        [(Transpose((1, 0)), HALF)],
        [(TOP, HALF), (BOTTOM, HALF)],
        [(Transpose((1, 0)), Slice(1, 0, 4), HALF), (Transpose((1, 0)), Slice(1, 4, 6), HALF)],
        [(TOP, Transpose((1, 0)), HALF), (Transpose((1, 0)), HALF, Slice(1, 4, 6))],
        [(TOP, Slice(0, 1, 3), HALF), (Slice(0, 0, 1), HALF), (Slice(0, 3, 6), HALF)],
        [(TOP, HALF), (TOP, HALF), (BOTTOM, HALF)],
        [(TOP, HALF), (Slice(0, 2, 6), HALF)],
        [(TOP, Reshape((2, 8)), HALF), (BOTTOM, HALF)],
    ],
)
def test_a_weight_is_told_by_its_parts(chains: list[tuple[Transform, ...]]) -> None:
    restored = Restored("w", WEIGHT.shape, (graph(*chains),))
    np.testing.assert_array_equal(restored.read(), WEIGHT)


@pytest.mark.parametrize("chains", [[(TOP, HALF)], [(TOP, HALF), (Slice(0, 2, 4), HALF)]])
def test_a_weight_of_which_a_part_is_missing_is_refused(chains: list[tuple[Transform, ...]]) -> None:
    with pytest.raises(LatentcError, match="do not tell the weight 'w'"):
        Restored("w", WEIGHT.shape, (graph(*chains),)).read()


def test_what_moves_otherwise_is_no_box() -> None:
    box = boxed((6, 4), (Transpose((1, 0)), Slice(1, 1, 5), HALF))
    assert box is not None and box.ends == ((1, 5), (0, 4)) and box.order == (1, 0) and box.size == 16
    assert boxed((6, 4), (Reshape((24,)),)) is None
