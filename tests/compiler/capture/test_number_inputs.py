"""Which integer inputs are numbers: those that a module takes as fractions, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from compiler.capture.arguments import Point
from compiler.capture.infer import Method, methods
from compiler.capture.recorder import Recorder

POINTS = [Point(batch=2, height=8, width=8)]


def embedded(self: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return x + self.table(t)


def indexed(self: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return x * self.table.weight[t]


def selected(self: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return x * self.table.weight.index_select(0, t.reshape(-1))


def with_bits(self: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return x * (t & 3).reshape(-1, 1)


def as_frequency(self: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return x + torch.sin(t.reshape(-1, 1).float() * self.table.weight[0])


def times_ones(self: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return x * (t * torch.ones(x.shape[0], dtype=t.dtype, device=x.device))[:, None]


def compared(self: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.where((t > 500).reshape(-1, 1), x, -x)


def returned(self: Any, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x, t + 1


def captured(forward: Any, *calls: tuple[torch.Tensor, Any]) -> Method:
    """The one graph of a module of this `forward`, called with these arguments."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        module = torch.nn.Module()
        module.table = torch.nn.Embedding(1000, 4)
    module.__class__ = type("Denoiser", (torch.nn.Module,), {"forward": forward})
    recorder = Recorder({"denoiser": module}, mode, lambda *_: None)
    with recorder.recording(0):
        for call in calls:
            module.forward(*call)
    (method,) = methods(recorder.calls, POINTS)
    return method


X = torch.ones(2, 4)


@pytest.mark.parametrize("forward", [as_frequency, times_ones, compared])
@pytest.mark.parametrize(
    "t", [torch.tensor(981), torch.tensor([981, 981]), torch.tensor(981, dtype=torch.int32)]
)
def test_a_number_may_be_a_fraction(forward: Any, t: torch.Tensor) -> None:
    method = captured(forward, (X, t), (X, t - 20))
    assert [(spec.name, spec.dtype, spec.shape) for spec in method.inputs] == [
        ("x", "float32", (2, 4)),
        ("t", "float32", tuple(t.shape)),
    ]
    assert method.values[0]["t"].dtype == torch.float32
    assert method.values[0]["t"].tolist() == t.tolist()


@pytest.mark.parametrize("forward", [embedded, indexed, selected, with_bits, returned])
@pytest.mark.parametrize("t", [torch.tensor([981, 981]), torch.tensor([981])])
def test_an_index_stays_an_integer(forward: Any, t: torch.Tensor) -> None:
    method = captured(forward, (X, t))
    assert [spec.dtype for spec in method.inputs] == ["float32", "int64"]
    assert method.values[0]["t"].dtype == torch.int64


def test_a_mask_stays_as_it_is() -> None:
    mask = torch.ones(2, 4, dtype=torch.int64)
    method = captured(lambda self, x, t: x * t.float(), (X, mask))
    assert [spec.dtype for spec in method.inputs] == ["float32", "int64"]


def test_whole_and_fractional_calls_are_one_graph() -> None:
    method = captured(as_frequency, (X, torch.tensor(981)), (X, torch.tensor(946.42)))
    assert [spec.dtype for spec in method.inputs] == ["float32", "float32"]
