import copy

import pytest
import torch

from compiler.capture.by_shape import RULES, by_shape

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


MODULES = [
    (torch.nn.LayerNorm(8), (2, 3, 8)),
    (torch.nn.GroupNorm(2, 8), (2, 8, 5)),
    (torch.nn.Linear(8, 6), (2, 3, 8)),
    (torch.nn.Linear(8, 6, bias=False), (8,)),
]


@pytest.mark.parametrize(("module", "shape"), MODULES)
def test_modules_have_their_shapes_on_meta_and_their_numbers_elsewhere(module, shape):
    x = torch.rand(shape)
    expected = module(x)
    before = torch.nn.functional.linear
    with by_shape(), torch.no_grad():
        assert module(x).equal(expected)
        made = copy.deepcopy(module).to("meta")(x.to("meta"))
    assert torch.nn.functional.linear is before
    assert (made.shape, made.dtype, made.device.type) == (expected.shape, expected.dtype, "meta")


def test_what_does_not_fit_is_an_error_still():
    with by_shape(), pytest.raises(RuntimeError, match="cannot be multiplied"):
        torch.nn.Linear(8, 6, device="meta")(torch.empty(2, 7, device="meta"))
