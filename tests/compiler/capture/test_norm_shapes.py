import pytest
import torch

from compiler.capture.norm_shapes import RULES, NormsByShape

aten = torch.ops.aten
CALLS = [
    (aten.native_group_norm.default, (4, 6, 5, 7), lambda x: (torch.ones(6), None, 4, 6, 35, 3, 1e-5)),
    (aten.native_group_norm.default, (2, 8, 9), lambda x: (None, None, 2, 8, 9, 4, 1e-5)),
    (aten.native_layer_norm.default, (2, 3, 8), lambda x: ([8], torch.ones(8), torch.ones(8), 1e-5)),
    (aten.native_layer_norm.default, (2, 3, 8), lambda x: ([3, 8], None, None, 1e-5)),
]


def test_every_rule_is_tried():
    assert {call[0] for call in CALLS} == set(RULES)


@pytest.mark.parametrize(("op", "shape", "rest"), CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rule_gives_what_torch_gives(op, shape, rest, dtype):
    x = torch.rand(shape).to(dtype)
    others = tuple(a.to(dtype) if isinstance(a, torch.Tensor) else a for a in rest(x))
    for ours, theirs in zip(RULES[op](x, *others), op(x, *others), strict=True):
        assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride())


def test_numbers_are_still_worked_out():
    x = torch.rand(2, 8)
    norm = torch.nn.LayerNorm(8)
    with NormsByShape():
        assert norm(x).equal(norm(x)) and norm(x).std() > 0.5
        assert norm.to("meta")(x.to("meta")).shape == (2, 8)
