"""A dry run of a made-up pipeline: what is recorded, what it is answered, and that nothing is left behind."""

from __future__ import annotations

import inspect

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from artifacts.call_trees import ConstLeaf, TensorLeaf
from artifacts.errors import LatentcError
from artifacts.resident import resident
from compiler.capture.recorder import Recorder, Spec
from compiler.capture.weightless_modules import real_tensor


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 6)
        self.unread = torch.nn.Linear(4, 6)
        self.register_buffer("mean", torch.tensor([1.0, 2.0]))
        self.register_buffer("positions", torch.arange(3), persistent=False)

    def forward(self, x, t=1, return_dict=True):
        self.calls = getattr(self, "calls", 0) + 1
        y = self.linear(x) * t
        return Transformer2DModelOutput(sample=y) if return_dict else (y,)

    def summed(self, residuals, return_dict=True):
        y = self.linear(residuals.pop()) + self.linear(residuals.pop())
        return Transformer2DModelOutput(sample=y) if return_dict else (y,)

    def prepare(self, size):
        return size * 2

    def decode(self, z):
        return self.forward(z).sample + 1

    def broken(self, x):
        raise RuntimeError("first line\nsecond line")


class Outer(torch.nn.Module):
    def __init__(self, inner: Inner) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).sample


@pytest.fixture
def inner() -> Inner:
    with torch.device("meta"):
        module = Inner()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for part in (module.linear, module.unread):
        for name, parameter in list(part._parameters.items()):
            with mode:
                part._parameters[name] = torch.nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
    module._buffers.update(mean=torch.tensor([1.0, 2.0]), positions=torch.arange(3))
    module.mode = mode
    return module


def recorder(inner: Inner, **more: torch.nn.Module) -> Recorder:
    modules = {"net": inner, **more}
    return Recorder(modules, inner.mode, lambda c, name: real_tensor(modules[c], {}, name))


def test_a_call_is_recorded_and_answered_with_zeros(inner):
    found = recorder(inner)
    with found.recording(3):
        out = inner(torch.ones(2, 4), return_dict=False)
    assert type(out) is tuple and out[0].shape == (2, 6) and not isinstance(out[0], FakeTensor)
    assert not out[0].any()
    (call,) = found.calls
    assert (call.component, call.method, call.point) == ("net", "forward", 3)
    assert call.arguments == {
        "x": TensorLeaf(name="x"),
        "t": ConstLeaf(value=1),
        "return_dict": ConstLeaf(value=False),
    }
    assert call.inputs == {"x": Spec(torch.float32, (2, 4))}
    assert call.numbers == {("t",): 1}
    assert call.outputs == {"sample": Spec(torch.float32, (2, 6))}  # a tuple's names are the output's
    assert call.used == {"linear.weight", "linear.bias"}
    assert torch.equal(call.values["x"], torch.ones(2, 4))


@pytest.mark.skipif(resident() is None, reason="the system does not tell what memory is of no file")
def test_an_answer_takes_no_memory_until_it_is_written(inner):
    before = resident().anonymous
    with recorder(inner).recording(0):
        out = inner(torch.zeros(()).expand(1 << 23, 4), return_dict=False)[0]
        assert not out.any()
    assert out.nbytes > 200e6 and resident().anonymous - before < 50e6
    out[0] = 1  # as pipelines do with what they get
    assert out[:2].sum() == 6


def test_what_is_passed_at_every_step_is_kept_once_as_it_was(inner):
    picture, made = torch.ones(2, 4), recorder(inner)
    with made.recording(0):
        inner(picture)
        inner(picture.clone())
        picture[0] = 5
        inner(picture)
    first, second, third = (call.values["x"] for call in made.calls)
    assert second is first and torch.equal(first, torch.ones(2, 4))
    assert third is not picture and third[0].tolist() == [5] * 4


def test_zeros_are_not_kept(inner):
    found = recorder(inner)
    with found.recording(0):
        inner(torch.zeros(2, 4))
    assert found.calls[0].values == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_division_by_zeros_gives_is_not_kept(inner, bad):
    """A check would feed it to both sides, and nothing would be compared."""
    found = recorder(inner)
    given = torch.ones(2, 4)
    given[1, 2] = bad
    with found.recording(0):
        inner(given)
        inner(torch.where(given == 1, -torch.inf, 0.0))
    assert found.calls[0].values == {} and set(found.calls[1].values) == {"x"}


def test_the_module_runs_once_for_each_set_of_shapes(inner):
    found = recorder(inner)
    with found.recording(0):
        for size in (2, 2, 3, 2):
            inner(torch.zeros(size, 4))
    assert len(found.calls) == 4
    assert inner.calls == 2


def test_a_module_that_empties_its_lists_is_asked_for_names_with_lists_of_its_own(inner):
    record, residuals = recorder(inner), [torch.zeros(2, 4), torch.zeros(2, 4)]
    with record.recording(0):
        inner.summed(residuals, return_dict=False)
    assert record.calls[0].outputs == {"sample": Spec(torch.float32, (2, 6))}


def test_nested_calls_are_recorded_once(inner):
    outer = Outer(inner)
    found = recorder(inner, outer=outer)
    with found.recording(0):
        inner.decode(torch.zeros(2, 4))
        outer(torch.zeros(2, 4))
        inner(torch.zeros(2, 4))
    assert [(c.component, c.method) for c in found.calls] == [
        ("net", "decode"),
        ("outer", "forward"),
        ("net", "forward"),
    ]


def test_methods_show_what_they_take(inner):
    takes = inspect.signature(inner.forward)
    with recorder(inner).recording(0):
        assert inspect.signature(inner.forward) == takes and "t" in takes.parameters
    assert inspect.signature(inner.forward) == takes


def test_methods_without_tensors_are_the_modules_own(inner):
    found = recorder(inner)
    with found.recording(0):
        assert inner.prepare(4) == 8
    assert found.calls == []


def test_tensors_read_outside_a_call_are_residuals_with_their_real_values(inner):
    found = recorder(inner)
    with found.recording(0):
        assert torch.equal(inner.mean * 2, torch.tensor([2.0, 4.0]))
        assert inner.positions.dtype == torch.int64 and inner.positions.tolist() == [0, 1, 2]
        inner(torch.zeros(2, 4))
    assert found.residuals == {"net": {"mean", "positions"}}
    assert not {"mean", "positions"} & found.calls[0].used


def test_a_stored_value_has_the_type_that_it_has_in_the_module(tmp_path):
    import numpy as np
    import onnx_ir as ir

    from targets.graph.weights import Stored

    module = torch.nn.Module()
    module.register_buffer("ids", torch.zeros(1, dtype=torch.int64))
    module.register_buffer("mean", torch.zeros(1))
    (tmp_path / "w").write_bytes(
        np.array([2**24 + 1], np.int64).tobytes() + np.array([1.5], np.float16).tobytes()
    )
    weights = {
        "ids": Stored(tmp_path / "w", "ids", ir.DataType.INT64, (1,), 0, 8),
        "mean": Stored(tmp_path / "w", "mean", ir.DataType.FLOAT16, (1,), 8, 2),
    }
    ids, mean = (real_tensor(module, weights, name) for name in ("ids", "mean"))
    assert ids.dtype == torch.int64 and ids.item() == 2**24 + 1
    assert mean.dtype == torch.float32 and mean.item() == 1.5


def test_modules_cannot_be_moved_meanwhile(inner):
    found = recorder(inner)
    with found.recording(0):
        assert inner.to(torch.float16) is inner and inner.half() is inner
        assert all(p.dtype == torch.float32 for p in inner.parameters())


def test_modules_are_what_they_were_afterwards(inner):
    before, read = set(inner.__dict__), torch.nn.Module.__getattr__
    found = recorder(inner)
    with pytest.raises(RuntimeError, match="the pipeline's own"), found.recording(0):
        inner(torch.zeros(2, 4))
        raise RuntimeError("the pipeline's own")
    assert set(inner.__dict__) - before == {"calls"}
    assert torch.nn.Module.__getattr__ is read
    assert isinstance(inner.linear.weight, FakeTensor) and isinstance(inner.mean, torch.Tensor)
    _ = inner.mean
    assert "mean" not in found.residuals.get("net", ())


def test_a_module_that_cannot_be_run_is_named(inner):
    found = recorder(inner)
    with pytest.raises(LatentcError) as caught, found.recording(0):
        inner.broken(torch.zeros(1))
    assert caught.value.message == (
        "'net.broken' (Inner) cannot be run without its weights: RuntimeError: first line"
    )
    with found.recording(0):  # and the next call is recorded again
        inner(torch.zeros(2, 4))
    assert len(found.calls) == 1
