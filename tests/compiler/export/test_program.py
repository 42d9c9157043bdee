"""torch.export of a captured method: what varies stays free, and what does not is said by name."""

from __future__ import annotations

import pytest
import torch

from artifacts.call_trees import ConstLeaf, MappingNode, TensorLeaf
from artifacts.errors import LatentcError
from compiler.export.program import export_program
from tests.compiler.made import method, spec


class Plain(torch.nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], 2, -1).sum(1)


class Baked(torch.nn.Module):
    def forward(self, x):
        return x + x.new_ones(2, 1)[: x.shape[0]] * x.view(2, -1)


class Repeated(torch.nn.Module):
    def forward(self, x):
        return x.sum(0, keepdim=True).expand(2, 4)


class Undecided(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Nested(torch.nn.Module):
    def forward(self, x, scale=1, extra=None):
        return {"again": extra["y"] * scale, "same": x}["again"], x


def test_a_size_that_varies_stays_free():
    program = export_program(Plain(), method(outputs=(spec("out", "batch", 2),)))
    for batch in (1, 2, 5):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(program.module()(x)[0], Plain()(x))


def test_a_baked_size_is_named():
    with pytest.raises(LatentcError, match=r"'unet\.forward' .*axis 0 of x \(batch\)") as caught:
        export_program(Baked(), method())
    assert "--size" in caught.value.hint


def test_a_result_of_one_size_is_named():
    with pytest.raises(LatentcError, match=r"holds for one size only: axis 0 of the result out \(batch\)"):
        export_program(Repeated(), method())


def test_code_that_looks_at_values_cannot_be_exported():
    with pytest.raises(
        LatentcError, match=r"'unet\.forward' \(Undecided\) cannot be exported by torch"
    ) as caught:
        export_program(Undecided(), method())
    assert "\n" not in caught.value.message
    assert caught.value.__cause__ is not None


def test_arguments_are_passed_as_the_pipeline_did_and_an_input_may_be_a_result():
    made = method(
        arguments={
            "x": TensorLeaf(name="x"),
            "scale": ConstLeaf(value=3),
            "extra": MappingNode(items={"y": TensorLeaf(name="y")}),
        },
        inputs=(spec("y", "batch", 4), spec("x", "batch", 4)),
        outputs=(spec("a", "batch", 4), spec("b", "batch", 4)),
    )
    y, x = torch.randn(3, 4), torch.randn(3, 4)
    a, b = export_program(Nested(), made).module()(y, x)
    torch.testing.assert_close((a, b), (y * 3, x))
