"""torch.export of a captured method: what varies stays free, and what does not is said by name."""

from __future__ import annotations

import pytest
import torch

from artifacts.call_trees import ConstLeaf, MappingNode, TensorLeaf
from artifacts.errors import LatentcError
from artifacts.manifest import DimRange
from compiler.export.program import OneSizeOnly, export_program, size_steps
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


class FirstOfEach(torch.nn.Module):
    """Every row becomes the first row of its half of the batch."""

    def forward(self, x):
        count = max(1, x.shape[0] // 2)
        halves = x.reshape(-1, count, x.shape[1])
        return halves[:, [0] * count].reshape(-1, x.shape[1])


class Unfolded(torch.nn.Module):
    """Rows are counted, and any number of them is."""

    def forward(self, x):
        return x.reshape(-1, max(1, x.shape[0] // 2), x.shape[1]).flatten(0, 1)


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


def test_a_count_of_rows_that_became_a_number_is_named():
    shapes = ({"batch": 4}, {"batch": 6}, {"batch": 2})
    with pytest.raises(
        LatentcError, match=r"one size only: .*batch//2.* = 2, which is not so where batch is 6"
    ):
        export_program(FirstOfEach(), method(shapes=shapes))


@pytest.mark.parametrize("module", [FirstOfEach(), Repeated()])
def test_a_number_of_rows_may_have_a_graph_of_its_own_where_rows_alone_are_counted(module):
    shapes = ({"batch": 4}, {"batch": 6}, {"batch": 2})
    with pytest.raises(OneSizeOnly) as error:
        export_program(module, method(shapes=shapes))
    assert error.value.rows is None
    with pytest.raises(OneSizeOnly) as error:
        export_program(module, method(shapes=shapes, rows=frozenset({"batch"})))
    assert error.value.rows == ("unet", "forward")


def test_rows_that_are_counted_by_symbols_stay_free():
    program = export_program(Unfolded(), method(shapes=({"batch": 4}, {"batch": 6}, {"batch": 2})))
    for batch in (2, 4, 6):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(program.module()(x)[0], x)


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


class Halved(torch.nn.Module):
    """As a denoiser of three levels: halved twice, doubled again, and put beside what it was."""

    def forward(self, x):
        low = x[..., ::2][..., ::2].repeat_interleave(4, -1)
        return torch.cat([low + x, x], 1)


class Padded(torch.nn.Module):
    """Odd sizes are padded: every second size has another graph."""

    def forward(self, x):
        return torch.nn.functional.pad(x, (0, 1)) if x.shape[-1] % 2 else torch.cat([x, x[..., :1]], -1)


@pytest.mark.parametrize(
    ("module", "low", "high", "steps"),
    [(Halved(), 8, 16, {"width": 4}), (Padded(), 8, 16, {"width": 2}), (Plain(), 8, 16, {})],
)
def test_the_steps_in_which_code_counts_are_told(module, low, high, steps):
    captured = method(
        inputs=(spec("x", 2, 4, "width"),),
        outputs=(spec("out", *module(torch.zeros(2, 4, 8)).shape[:-1], "width_2"),),
        dims={"width": DimRange(min=low, max=high)},
        shapes=(
            {"width": 12, "width_2": 12},
            {"width": low, "width_2": low},
            {"width": high, "width_2": high},
        ),
    )
    if not steps:
        captured = method(
            inputs=(spec("x", "width", 4),),
            outputs=(spec("out", "width", 2),),
            dims={"width": DimRange(min=low, max=high)},
            shapes=({"width": 12}, {"width": low}),
        )
    program = export_program(module, captured)
    assert size_steps(program, captured) == steps


def test_steps_are_told_of_declared_sizes_of_pictures_alone():
    captured = method(
        inputs=(spec("x", 2, 4, "tokens"),),
        outputs=(spec("out", 2, 8, "tokens"),),
        dims={"tokens": DimRange(min=8, max=16)},
        shapes=({"tokens": 12}, {"tokens": 8}),
    )
    assert size_steps(export_program(Halved(), captured), captured) == {}
