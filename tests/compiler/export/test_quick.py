"""Torch's bookkeeping made cheaper: the same programs, and torch as it was afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from onnx_ir.schemas import OpSignature
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import config
from torch.fx.experimental.sym_node import SymNode
from torch.onnx._internal.exporter import _core, _registration

from compiler.export.quick import quick

PLACES: dict[str, Any] = {
    "sizes": lambda: vars(SymNode),
    "results": lambda: vars(FakeTensorMode),
    "norms": lambda: fake_impls.FAST_OP_IMPLEMENTATIONS,
    "registry": lambda: vars(_registration.ONNXRegistry),
    "signatures": lambda: vars(OpSignature),
    "listings": lambda: vars(_core),
    "stack traces": lambda: {"do_not_emit_stack_traces": config.do_not_emit_stack_traces},
}


@pytest.mark.parametrize("place", PLACES)
def test_torch_is_as_it_was_afterwards(place):
    before = dict(PLACES[place]())
    with quick():
        assert dict(PLACES[place]()) != before, "nothing is replaced: is torch another one?"
    assert dict(PLACES[place]()) == before


def test_what_one_export_registers_is_not_there_for_the_next():
    def translation(x):
        return x

    with quick():
        first = _registration.ONNXRegistry.from_torchlib(21)
        target = next(iter(first.functions))
        known = len(first.functions[target])
        first.register_op(target, translation, is_complex=False)
        second = _registration.ONNXRegistry.from_torchlib(21)
    assert len(second.functions[target]) == known
    plain = _registration.ONNXRegistry.from_torchlib(21)
    assert plain.functions.keys() == second.functions.keys()


def test_a_program_is_the_same():
    """Blocks repeat, so that their calls are known; views, slices and sums in place lie in others' memory."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layer = torch.nn.GroupNorm(2, 4), torch.nn.Linear(6, 12)

        def forward(self, x):
            y = self.norm(x) * 2
            y += x
            y[:, 1:].mul_(3)
            first, second = self.layer(y.flatten(2)).chunk(2, dim=-1)
            z = (first * second).transpose(1, 2)[:, ::2]
            return x + torch.cat([z, z], 1).transpose(1, 2).reshape(x.shape)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.last = torch.nn.Sequential(Block(), Block(), Block()), torch.nn.LayerNorm(6)

        def forward(self, x):
            return self.last(self.blocks(x).flatten(2))

    def export():
        FakeTensorMode.cache_clear()
        dims = {0: torch.export.Dim("n", min=1, max=8)}
        return torch.export.export(Model(), (torch.rand(3, 4, 2, 3),), dynamic_shapes=(dims,))

    plain = export()
    with quick():
        fast = export()
        assert FakeTensorMode.cache_info().hits > 20
    assert [(n.name, n.target) for n in fast.graph.nodes] == [(n.name, n.target) for n in plain.graph.nodes]
    for ours, theirs in zip(fast.graph.nodes, plain.graph.nodes, strict=True):
        if isinstance(theirs.meta.get("val"), torch.Tensor):
            for read in (torch.Tensor.size, torch.Tensor.stride, torch.Tensor.storage_offset):
                assert str(read(ours.meta["val"])) == str(read(theirs.meta["val"])), ours.name
            assert ours.meta["val"].dtype == theirs.meta["val"].dtype
