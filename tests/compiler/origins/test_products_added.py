"""What a LoRA adds to a weight is one operator, and the same weight."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from compiler.origins.computed import Constant
from compiler.origins.operation_results import evaluated
from compiler.origins.recorded import Recorded

WEIGHT, LEFT, RIGHT = torch.randn(6, 5), torch.randn(6, 2), torch.randn(2, 5)


class Operators(TorchDispatchMode):
    """Notes the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def recorded(tensor: torch.Tensor) -> Recorded:
    return Recorded(Constant.of(tensor))


def test_two_loras_are_added_by_two_operators() -> None:
    weight, left, right = map(recorded, (WEIGHT, LEFT, RIGHT))
    whole = (weight + (left @ right) * 0.5 + (left @ right) * -2.0).to(torch.float32)
    with Operators() as operators:
        result = evaluated(whole.origin)
    # The first makes a tensor, and the second adds to it.
    assert operators.names.count("aten.addmm.default") == operators.names.count("aten.addmm_.default") == 1
    assert not {"aten.mm.default", "aten.mul.Tensor", "aten.add.Tensor"} & set(operators.names)
    np.testing.assert_allclose(result, WEIGHT - 1.5 * (LEFT @ RIGHT), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight", [torch.randn(5), torch.randn(1, 5), torch.randn(6, 5).double()])
def test_a_product_of_another_shape_or_type_is_added_as_it_was_recorded(weight: torch.Tensor) -> None:
    left, right = map(recorded, (LEFT, RIGHT))
    whole = recorded(weight) + (left @ right) * 0.5
    np.testing.assert_allclose(evaluated(whole.origin), weight + (LEFT @ RIGHT) * 0.5, rtol=1e-6, atol=1e-6)


def test_a_sum_writes_over_what_was_computed_for_it_alone() -> None:
    half, left, right = recorded(WEIGHT.half()), recorded(LEFT), recorded(RIGHT)
    with Operators() as operators:
        result = evaluated((half.float() + (left @ right) * 0.5).origin)
    assert "aten.addmm_.default" in operators.names and "aten.addmm.default" not in operators.names
    np.testing.assert_allclose(result, WEIGHT.half().float() + 0.5 * (LEFT @ RIGHT), rtol=1e-5, atol=1e-5)


def test_a_sum_leaves_what_others_read_as_it_was() -> None:
    shared, right = recorded(WEIGHT.half()).float(), recorded(RIGHT)
    left = shared.narrow(1, 0, 2)  # a view of it
    twice = (shared + (left @ right) * 0.5) + (left @ right) * 0.25
    expected = WEIGHT.half().float()
    expected = expected + 0.75 * (expected[:, :2] @ RIGHT)
    np.testing.assert_allclose(evaluated(twice.origin), expected, rtol=1e-5, atol=1e-5)
