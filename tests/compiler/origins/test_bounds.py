"""How large a LoRA's sum can be is told without the sum."""

import onnx_ir as ir
import pytest
import torch

from compiler.origins import computed as module
from compiler.origins.computed import Constant
from compiler.origins.operation_results import evaluated
from compiler.origins.recorded import Recorded
from compiler.passes.precision import audit
from targets.graph.weights import Cast, Joined, Merge, Transpose, WeightRef

torch.manual_seed(0)
WEIGHT, LEFT, RIGHT = torch.randn(48, 40), torch.randn(48, 3), torch.randn(3, 40)


def lora(size: float = 1.0, factor: float = 0.5) -> Recorded:
    weight, left, right = (Recorded(Constant.of(tensor)) for tensor in (WEIGHT * size, LEFT, RIGHT))
    result: Recorded = (weight.half().float() + (left @ right) * factor).to(torch.float32)
    return result


@pytest.mark.parametrize("factor", [0.5, -2.0, 300.0])
def test_the_bound_holds_and_is_near(factor: float) -> None:
    weight = lora(factor=factor)
    bound, real = weight.origin.bound(), float(evaluated(weight.origin).abs().max())
    assert real <= bound <= 3 * real


def test_elements_that_only_move_keep_it() -> None:
    weight = lora()
    moved = weight.reshape(40, 48).t().to(torch.float64)
    assert moved.origin.bound() == pytest.approx(weight.origin.bound(), rel=1e-2)
    ref = WeightRef(weight.origin, (Transpose((1, 0)), Cast(ir.DataType.FLOAT)))
    assert ref.bound() == weight.origin.bound()
    joined = WeightRef(Joined((ref, WeightRef(lora(9.0).origin, (Transpose((1, 0)),))), 0))
    assert joined.bound() == lora(9.0).origin.bound()


def test_what_it_cannot_tell_is_not_told() -> None:
    weight = lora()
    assert torch.exp(weight).origin.bound() is None
    assert (weight * Recorded(Constant.of(WEIGHT))).origin.bound() is None
    assert WeightRef(weight.origin, (Merge(((0, (24, 24)),)),)).bound() is None
    wide = Recorded(Constant.of(torch.randn(4, 90))) @ Recorded(Constant.of(torch.randn(90, 4)))
    assert wide.origin.bound() is None  # its factors are larger than it


def test_a_range_check_does_not_compute_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[tuple[int, ...]] = []

    def noted(origin: object) -> torch.Tensor:
        result = evaluated(origin)  # type: ignore[arg-type]
        computed.append(tuple(result.shape))
        return result

    monkeypatch.setattr(module, "evaluated", noted)
    assert audit(WeightRef(lora().origin), "fp16") is None and not computed
    # The bound is too large and the weight is not: then its values decide.
    near = lora(65000 / float(WEIGHT.abs().max()), factor=1e-3)
    assert near.origin.bound() > 65000 and audit(WeightRef(near.origin), "fp16") is None
    beyond = lora(factor=70000.0)
    peak = audit(WeightRef(beyond.origin), "fp16")
    assert peak == pytest.approx(float(evaluated(beyond.origin).abs().max()))
    assert computed
