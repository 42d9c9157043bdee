from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from artifacts.call_trees import AnyLeaf, ConstLeaf, MappingNode, Tree
from artifacts.errors import LatentcError
from artifacts.manifest import TensorSpec
from runtimes import compiled_method
from runtimes.call_form import form_of
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled
from tests.runtimes.test_shell import call, component, shell

SPECS = {
    "sample": TensorSpec(name="sample", dtype="float32", shape=("batch", 4)),
    "timestep": TensorSpec(name="timestep", dtype="float32", shape=(1,)),
    "residual": TensorSpec(name="residual", dtype="float32", shape=("batch",)),
    "ids": TensorSpec(name="ids", dtype="int64", shape=("batch",)),
}
TREES: tuple[Tree, ...] = (
    tiny.tensor("sample"),
    tiny.tensor("timestep"),
    tiny.in_tuple(tiny.tensor("residual")),
    MappingNode(kind="dict", items={"ids": tiny.tensor("ids"), "scale": ConstLeaf(value=2)}),
    AnyLeaf(),
)
NAMES = ("timestep", "residuals", "added", "generator")


def arguments(**changes: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    values: dict[str, Any] = {
        "sample": torch.arange(8.0).reshape(2, 4),
        "timestep": torch.tensor(7),
        "residuals": (torch.ones(2, dtype=torch.float64),),
        "added": {"ids": torch.tensor([1.0, 2.0]), "scale": 2},
        "generator": torch.Generator(),
    }
    values |= changes
    return (values["sample"],), {name: values[name] for name in NAMES}


def test_takes_the_inputs_of_calls_of_its_form() -> None:
    form = form_of(*arguments(), TREES, SPECS, values_matter=False)
    assert form is not None
    sample = torch.randn(2, 4)
    arrays = form.arrays(*arguments(sample=sample, timestep=torch.tensor(8), generator=None))
    assert arrays is not None
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "sample": ("float32", (2, 4)),
        "timestep": ("float32", (1,)),
        "residual": ("float32", (2,)),
        "ids": ("int64", (2,)),
    }
    assert np.shares_memory(arrays["sample"], sample.numpy())
    assert arrays["timestep"].tolist() == [8.0]
    assert arrays["ids"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"sample": torch.zeros(3, 4)},
        {"sample": torch.zeros(2, 4, dtype=torch.float64)},
        {"sample": torch.zeros(2, 4, device="meta")},
        {"sample": np.zeros((2, 4), np.float32)},
        {"timestep": 7},
        {"residuals": [torch.ones(2, dtype=torch.float64)]},
        {"residuals": ()},
        {"added": {"ids": torch.tensor([1.5, 2.0]), "scale": 2}},
        {"added": {"ids": torch.tensor([1.0, 2.0]), "scale": 3}},
        {"added": {"ids": torch.tensor([1.0, 2.0]), "scale": True}},
        {"added": {"ids": torch.tensor([1.0, 2.0])}},
    ],
)
def test_other_calls_are_none_of_its_form(changes: dict[str, Any]) -> None:
    form = form_of(*arguments(), TREES, SPECS, values_matter=False)
    assert form is not None
    assert form.arrays(*arguments(**changes)) is None
    args, kwargs = arguments()
    assert form.arrays((*args, 1), kwargs) is None
    assert form.arrays(args, dict(reversed(kwargs.items()))) is None
    assert form.arrays(args, kwargs) is not None


def test_no_form_where_another_record_may_have_looked_at_values() -> None:
    assert form_of(*arguments(), TREES, SPECS, values_matter=True) is None
    sample = (torch.zeros(2, 4),)
    assert form_of((7,), {}, [tiny.tensor("timestep")], SPECS, values_matter=True) is None
    assert form_of((7,), {}, [tiny.tensor("timestep")], SPECS, values_matter=False) is not None
    form = form_of(sample, {"other": None}, [tiny.tensor("sample"), AnyLeaf()], SPECS, values_matter=True)
    assert form is not None
    assert form.arrays(sample, {"other": 1}) is None


class Count:
    """A function that is called, and how often it was."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.function(*args)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Count]:
    """What looks at arguments, tensors, sizes and at what is set on a module."""
    counts = [Count(getattr(compiled_method, name)) for name in ("bind", "match_arguments", "to_array")]
    counts += [Count(getattr(compiled_method, name)) for name in ("fit_dims", "mismatch", "division")]
    for count in counts:
        monkeypatch.setattr(compiled_method, count.function.__name__, count)
    return counts


def test_what_was_looked_at_once_is_not_looked_at_again(compiled: Compiled, looks: list[Count]) -> None:
    made = shell(compiled, "unet")
    first = call(made)[0]
    assert all(count.calls for count in looks)
    before = [count.calls for count in looks]
    for timestep in (1, 2, 3):
        answer = call(made, timestep=timestep, sample=torch.full((2, 4, 16, 16), 0.5))[0]
    assert [count.calls for count in looks] == before
    hidden = torch.zeros(2, tiny.TEXT_LENGTH, 8)
    wanted = compiled.reference.unet(torch.full((2, 4, 16, 16), 0.5), 3, hidden, return_dict=False)[0]
    assert torch.equal(answer, wanted)
    assert not torch.equal(answer, first)
    call(made, batch=1)
    assert all(count.calls > number for count, number in zip(looks, before, strict=True))


def test_what_does_not_fit_is_refused_after_calls_that_did(compiled: Compiled) -> None:
    made = shell(compiled, "unet")
    call(made)
    with pytest.raises(LatentcError, match="class_labels: expected None"):
        call(made, class_labels=torch.zeros(2))
    with pytest.raises(LatentcError, match="sample: expected shape"):
        call(made, side=64)


def test_a_record_that_comes_first_still_answers_what_it_fits(compiled: Compiled) -> None:
    """It is compiled for one value of an argument that the second passes over."""
    record = component(compiled, "unet").methods[0]
    exact = record.model_copy(
        update={
            "arguments": record.arguments | {"class_labels": ConstLeaf(value=1)},
            "result": ConstLeaf(value="the first"),
        }
    )
    other = record.model_copy(update={"arguments": record.arguments | {"class_labels": AnyLeaf()}})
    made = shell(compiled, "unet", methods=(exact, other))
    for _ in range(2):
        assert isinstance(call(made, class_labels=2), tuple)
        assert call(made, class_labels=1) == "the first"
