"""What a pipeline sets on a module for a call is part of the call: recorded, set again for the graph, or refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.activations import FP32SiLU
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, JointAttnProcessor2_0
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.call_trees import AnyLeaf, ConstLeaf, ObjectNode, SequenceNode
from artifacts.errors import LatentcError
from compiler.capture.arguments import Point
from compiler.capture.calls import MethodCall
from compiler.capture.infer import Method, methods
from compiler.capture.recorder import Call, Recorder
from compiler.capture.weightless_modules import real_tensor
from runtimes.trusted_classes import class_path

SMALL, LARGE = Point(2, 32, 32), Point(3, 64, 64)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4, bias=False)
        self.processor: Any = AttnProcessor2_0()
        self.factor = 2.0
        self.unread = 0
        self.options = FrozenDict({"sign": 1, "note": "built"})
        self.register_buffer("shift", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        x = self.linear(x) * self.factor * self.options["sign"] + self.shift
        return -x if isinstance(self.processor, AttnProcessor) else x + sum(getattr(self, "more", ()))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


@contextmanager
def attribute(net: Any, name: str, value: Any) -> Any:
    before = vars(net.block).get(name)
    setattr(net.block, name, value)
    yield
    if before is None:
        delattr(net.block, name)
    else:
        setattr(net.block, name, before)


@contextmanager
def buffer(net: Any) -> Any:
    before, net.block.shift = net.block.shift, torch.ones(4)
    yield
    net.block.shift = before


@contextmanager
def written_buffer(net: Any) -> Any:
    net.block.shift.add_(1)
    yield


@contextmanager
def hook(net: Any) -> Any:
    handle = net.block.register_forward_hook(lambda module, args, out: out * 2)
    yield
    handle.remove()


@contextmanager
def another_weight(net: Any) -> Any:
    weights = net.block.linear._parameters  # by name they are the recorder's to read
    before, weights["weight"] = weights["weight"], torch.nn.Parameter(torch.ones(4, 4), requires_grad=False)
    yield
    weights["weight"] = before


@contextmanager
def another_module(net: Any) -> Any:
    before, net.block.linear = net.block.linear, torch.nn.Linear(4, 4, bias=False)
    yield
    net.block.linear = before


Change = Callable[[Any], AbstractContextManager[Any]]


def record(*changes: Change | None, points: tuple[int, ...] = (0,)) -> list[Call]:
    """The calls of a pipeline that calls the net once for each of `changes`, set for that call and then set back."""
    net, mode = Net(), FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        net.block.linear.weight = torch.nn.Parameter(torch.empty(4, 4), requires_grad=False)
    recorder = Recorder({"net": net}, mode, lambda c, name: real_tensor(net, {}, name))
    for point in points:
        with recorder.recording(point):
            for change in changes:
                if change is None:
                    net(torch.ones((SMALL, LARGE)[point].batch, 4))
                    continue
                with change(net):
                    net(torch.ones((SMALL, LARGE)[point].batch, 4))
    return recorder.calls


def graphs(*changes: Change | None) -> tuple[Method, ...]:
    return methods(record(*changes, points=(0, 1)), (SMALL, LARGE))


def test_attributes_and_processors_are_data() -> None:
    (call,) = record(lambda net: attribute(net, "factor", 3.0))
    assert call.state == {"block.factor": ConstLeaf(value=3.0)}
    (call,) = record(lambda net: attribute(net, "more", [1, 2]))
    items = (ConstLeaf(value=1), ConstLeaf(value=2))
    assert call.state == {"block.more": SequenceNode(kind="list", items=items)}
    (call,) = record(lambda net: attribute(net, "processor", AttnProcessor()))
    assert call.state == {"block.processor": ObjectNode(class_path=class_path(AttnProcessor), items={})}


def test_an_entry_of_a_config_is_recorded_alone() -> None:
    (call,) = record(lambda net: attribute(net, "options", FrozenDict({"sign": -1, "note": "built"})))
    assert call.state == {"block.options.sign": ConstLeaf(value=-1)}


def test_what_is_set_back_or_set_to_what_it_was_is_not_counted() -> None:
    calls = record(None, lambda net: attribute(net, "factor", 3.0), None)
    assert [sorted(call.state) for call in calls] == [[], ["block.factor"], []]
    (call,) = record(lambda net: attribute(net, "processor", AttnProcessor2_0()))
    assert call.state == {}


def test_what_the_call_does_not_read_fits_anything() -> None:
    (call,) = record(lambda net: attribute(net, "unread", object()))
    assert call.state == {"block.unread": AnyLeaf()}


def test_what_a_module_sets_on_itself_is_not_its_pipelines() -> None:
    assert [call.state for call in record(None, None, points=(0, 1))] == [{}] * 4


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (buffer, "block.shift"),
        (written_buffer, "block.shift"),
        (hook, "block._forward_hooks"),
        (another_module, "block.linear"),
        (lambda net: attribute(net, "processor", lambda x: x), "block.processor"),
        (lambda net: attribute(net, "forward", lambda x: x), "block.forward"),
    ],
)
def test_what_is_more_than_data_is_refused(change: Change, path: str) -> None:
    with pytest.raises(LatentcError, match=f"'net.forward' depends on .* sets at '{path}'") as caught:
        record(change)
    assert "--arg NAME=VALUE" in caught.value.hint


def test_weights_that_are_made_during_the_call_say_where_a_compile_may_end() -> None:
    with pytest.raises(LatentcError, match=r"sets at 'block\.linear\.weight'") as caught:
        record(another_weight)
    assert "output_type=latent" in caught.value.hint


def test_states_of_one_call_of_the_pipeline_are_graphs_of_their_own() -> None:
    plain, changed = graphs(None, lambda net: attribute(net, "processor", AttnProcessor()))
    assert (plain.folder, changed.folder) == ("net", "net_2")
    assert (sorted(plain.state), sorted(changed.state)) == ([], ["block.processor"])


def test_a_state_that_follows_sizes_is_refused() -> None:
    calls = record(lambda net: attribute(net, "factor", 3.0))
    calls += [Call(**(vars(c) | {"point": 1})) for c in record(lambda net: attribute(net, "factor", 4.0))]
    with pytest.raises(LatentcError, match=r"'block.factor' .* not the same in calls of other sizes"):
        methods(calls, (SMALL, LARGE))


def test_a_state_that_follows_steps_is_refused() -> None:
    changes = [lambda net, step=step: attribute(net, "factor", step + 3.0) for step in range(5)]
    with pytest.raises(LatentcError, match=r"'block.factor' .* changes from step to step"):
        graphs(*changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: attribute(net, "factor", 3.0),
        lambda net: attribute(net, "processor", AttnProcessor()),
        lambda net: attribute(net, "more", (1, 2)),
        lambda net: attribute(net, "options", FrozenDict({"sign": -1, "note": "built"})),
    ],
)
def test_another_instance_computes_what_was_set(change: Change) -> None:
    (method,) = graphs(change)
    net, x = Net().eval(), torch.rand(2, 4)
    plain = net(x)
    with change(net):
        expected = net(x)
    assert not torch.equal(plain, expected)
    assert torch.equal(MethodCall(net, method)(x)[0], expected)


def test_a_processor_that_is_a_module_without_weights_is_data() -> None:
    (method,) = graphs(None)
    state = {"block.processor": ObjectNode(class_path=class_path(FP32SiLU), items={})}
    net = Net().eval()
    MethodCall(net, replace(method, state=state))
    assert type(net.block.processor) is FP32SiLU


def test_what_does_not_stay_is_an_error() -> None:
    class Stubborn(Block):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, JointAttnProcessor2_0() if name == "processor" else value)

    (method,) = graphs(lambda net: attribute(net, "processor", AttnProcessor()))
    net = Net()
    net.block = Stubborn()
    with pytest.raises(LatentcError, match="'block.processor' of Net does not keep"):
        MethodCall(net, method)
