import torch
from torch._subclasses import fake_impls
from torch.onnx._internal.exporter import _registration

from compiler.capture.by_shape import RULES
from compiler.export.quick import quick


def test_torch_is_as_it_was_afterwards():
    from torch._subclasses.fake_tensor import FakeTensorMode

    registry = _registration.ONNXRegistry.__dict__["from_torchlib"]
    entry = FakeTensorMode._output_from_cache_entry
    with quick():
        assert FakeTensorMode._output_from_cache_entry is not entry
        assert set(RULES) <= set(fake_impls.FAST_OP_IMPLEMENTATIONS)
    assert FakeTensorMode._output_from_cache_entry is entry
    assert not set(RULES) & set(fake_impls.FAST_OP_IMPLEMENTATIONS)
    assert _registration.ONNXRegistry.__dict__["from_torchlib"] is registry


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
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = torch.nn.GroupNorm(2, 4), torch.nn.LayerNorm(6)

        def forward(self, x):
            return self.last(self.norm(x).flatten(2))

    def export():
        dims = {0: torch.export.Dim("n", min=1, max=8)}
        return torch.export.export(Model(), (torch.rand(3, 4, 2, 3),), dynamic_shapes=(dims,))

    plain = export()
    with quick():
        fast = export()
    assert [(n.name, n.target) for n in fast.graph.nodes] == [(n.name, n.target) for n in plain.graph.nodes]
    for ours, theirs in zip(fast.graph.nodes, plain.graph.nodes, strict=True):
        if isinstance(theirs.meta.get("val"), torch.Tensor):
            assert str(ours.meta["val"].shape) == str(theirs.meta["val"].shape)
            assert str(ours.meta["val"].stride()) == str(theirs.meta["val"].stride())
