"""Modules that decide by values: their own Python runs, and their parts are graphs."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.errors import LatentcError
from compiler.capture.calls import MethodCall
from compiler.capture.recorder import Recorder
from compiler.capture.split import NotOneGraph, Submodule, answered_parts, parts_of
from tests.compiler.made import method


class Packed(torch.nn.Module):
    """Works on the rows that a mask keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kept = x[mask.nonzero()[:, 0]]
        for layer in self.layers:
            kept = layer(kept)
        return kept * self.scale


class Whole(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.packed = module

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.packed(x, mask)


def _weightless(module: torch.nn.Module, mode: FakeTensorMode) -> torch.nn.Module:
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                with mode:
                    fake = torch.empty(parameter.shape)
                part._parameters[name] = torch.nn.Parameter(fake, requires_grad=False)
    return module


def _run(module: torch.nn.Module, split: tuple[Submodule, ...]) -> tuple[Recorder, torch.Tensor]:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    module = _weightless(module, mode)
    recorder = Recorder({"net": module}, mode, lambda component, name: torch.tensor(3.0), split)
    with recorder.recording(0), torch.no_grad():
        result = module(torch.zeros(5, 4), torch.tensor([1, 0, 1, 1, 0]))
    return recorder, result


def test_what_decides_by_values_is_named_with_its_place() -> None:
    with pytest.raises(NotOneGraph, match=r"'net\.forward' \(Whole\) cannot be one graph") as whole:
        _run(Whole(Packed()), ())
    with pytest.raises(NotOneGraph, match=r"'net\.packed\.forward' \(Packed\)") as packed:
        _run(Whole(Packed()), (whole.value.part,))
    recorder, result = _run(Whole(Packed()), (whole.value.part, packed.value.part))
    assert result.shape == (3, 4)
    assert [(call.method, call.inputs["input"].shape) for call in recorder.calls] == [
        ("packed.layers.0.forward", (3, 4)),
        ("packed.layers.1.forward", (3, 4)),
    ]
    assert recorder.calls[0].used == {"packed.layers.0.weight", "packed.layers.0.bias"}
    # What its own Python reads is there when it runs.
    assert recorder.residuals == {"net": {"packed.scale"}}


def test_an_error_of_another_kind_is_not_split() -> None:
    class Broken(Packed):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            raise ValueError("no tiling")

    with pytest.raises(
        LatentcError, match="cannot be run without its weights: ValueError: no tiling"
    ) as error:
        _run(Broken(), ())
    assert not isinstance(error.value, NotOneGraph)


class Layered(Packed):
    """Calls its layers one after the other."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_what_a_pipeline_hooks_is_called_from_python() -> None:
    def hidden(*split: Submodule) -> tuple[Recorder, torch.Tensor]:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        module: Layered = _weightless(Layered(), mode)  # type: ignore[assignment]
        recorder = Recorder({"net": module}, mode, lambda component, name: torch.tensor(3.0), split)
        kept: list[torch.Tensor] = []
        handle = module.layers[0].register_forward_hook(lambda part, inputs, output: kept.append(output))
        with recorder.recording(0), torch.no_grad():
            module(torch.zeros(5, 4), torch.zeros(5))
        handle.remove()
        return recorder, kept[0]

    with pytest.raises(
        NotOneGraph, match=r"depends on what its pipeline sets at 'layers\.0\._forward_hooks'"
    ):
        hidden()
    recorder, layer = hidden(Submodule("net"))
    assert [call.method for call in recorder.calls] == ["layers.0.forward", "layers.1.forward"]
    assert layer.shape == (5, 4)


class Alone(torch.nn.Module):
    """Has no parts, and as many weights as it is told."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(weights))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x[mask.nonzero()[:, 0]]


def test_what_has_no_parts_and_many_weights_cannot_be_split() -> None:
    for whole in (Whole(Alone(1 << 17)), Alone(4)):
        with pytest.raises(LatentcError) as error:
            _run(whole, (Submodule("net"),) if isinstance(whole, Whole) else ())
        assert not isinstance(error.value, NotOneGraph)


def test_what_has_no_parts_and_few_weights_runs_in_its_own_python() -> None:
    whole = Submodule("net")
    with pytest.raises(NotOneGraph) as error:
        _run(Whole(Alone(4)), (whole,))
    assert str(error.value.part) == "net.packed"
    recorder, result = _run(Whole(Alone(4)), (whole, error.value.part))
    assert result.shape == (3, 4) and recorder.calls == []


def test_parts_are_looked_for_in_lists() -> None:
    module = Whole(Packed())
    assert [path for path, _ in parts_of(module.packed, "packed")] == ["packed.layers.0", "packed.layers.1"]
    split = (Submodule("net"), Submodule("net", "packed"))
    assert [str(part) for part, _ in answered_parts(Submodule("net"), module, split)] == [
        "net.packed.layers.0",
        "net.packed.layers.1",
    ]


def test_the_call_of_a_part_holds_the_part_alone_under_its_own_name() -> None:
    module = Whole(Packed())
    call = MethodCall(module, method(component="net", method="packed.layers.1.forward"))
    assert [name for name, _ in call.named_parameters()] == [
        "module.packed.layers.1.weight",
        "module.packed.layers.1.bias",
    ]
