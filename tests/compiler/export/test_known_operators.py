"""Operators written as others: the same results, and what no rule fits is left alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from compiler.export.known_operators import slice_chunks, use_known_operators
from tests.compiler.made import Function

aten = torch.ops.aten


def _added(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    before = y + 1
    y += x
    y.mul_(before)
    return y.sum(-1) - y[0].sum(-1)


def _diagonal_filled(x: torch.Tensor) -> torch.Tensor:
    y = x[0, 0] * 2
    y[:3, 1:].fill_diagonal_(0.5)
    return y


def _added_to_a_view(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y[:, 0].add_(1)
    return y


def _added_below_a_view(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    top = y[:, 0]
    y += 1
    return top * 3


def _added_to_the_input(x: torch.Tensor) -> torch.Tensor:
    x += 1
    return x * 2


def _put(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y[torch.tensor([0, 1]), torch.tensor([0, 0])] = 0.5
    return y


def _transposed(rank: int) -> Callable[[torch.Tensor], torch.Tensor]:
    convolution = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[
        rank - 1
    ]
    weight = torch.rand(4, 3, *[3] * rank, generator=torch.Generator().manual_seed(0))

    def run(x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(2, 4, *([9] if rank == 1 else [3, 3] if rank == 2 else [1, 3, 3]))
        plain = convolution(x, weight).sum()
        return plain + convolution(
            x, weight, torch.ones(3), stride=2, padding=1, output_padding=1, dilation=2
        )

    return run


WRITTEN: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "outer": (lambda x: torch.outer(x[0, 0, 0], torch.arange(4)), "outer"),
    "and": (lambda x: ((x > 0.2) & (x < 0.7)).float(), "__and__"),
    "or": (lambda x: ((x > 0.7) | (x < 0.2)).float(), "__or__"),
    "and of integers": (lambda x: (x * 100).int() & (x * 10).int(), "__and__"),
    "number minus": (lambda x: 1.5 - x, "rsub"),
    "whole number minus": (lambda x: 3 - (x * 100).int(), "rsub"),
    "transposed 1d": (_transposed(1), "conv_transpose1d"),
    "transposed 2d": (_transposed(2), "conv_transpose2d"),
    "transposed 3d": (_transposed(3), "conv_transpose3d"),
    "3d without a bias": (
        lambda x: functional.conv3d(x.reshape(2, 4, 1, 3, 3), torch.ones(5, 4, 1, 3, 3), padding=(0, 1, 1)),
        "conv3d",
    ),
    "nearest": (
        lambda x: functional.interpolate(x, scale_factor=3, mode="nearest-exact"),
        "_upsample_nearest_exact2d",
    ),
    "in place": (_added, "add_"),
    "put at indices": (_put, "index_put_"),
    "diagonal of a view": (_diagonal_filled, "fill_diagonal_"),
}

LEFT: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "to another type": (lambda x: 1.5 - (x * 100).int(), "rsub"),
    "nearest between": (
        lambda x: functional.interpolate(x, scale_factor=1.5, mode="nearest-exact"),
        "_upsample_nearest_exact2d",
    ),
    "in place in a view": (_added_to_a_view, "add_"),
    "in place below a view": (_added_below_a_view, "add_"),
    "in place in an input": (_added_to_the_input, "add_"),
}


def _names(program: torch.export.ExportedProgram) -> set[str]:
    return {getattr(n.target, "_opname", "") for n in program.graph.nodes if n.op == "call_function"}


@pytest.mark.parametrize("name", WRITTEN | LEFT)
def test_results_are_the_same(name: str) -> None:
    function, operator = (WRITTEN | LEFT)[name]
    x = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(1)).reshape(2, 1, 4, 9)[..., :9]
    x = x if "nearest" in name or "transposed" in name or "3d" in name else x[..., :4]
    with torch.no_grad():
        program = torch.export.export(Function(function), (x,), strict=False)
        assert operator in _names(program), "the test does not meet the operator"
        shapes = [
            (n.meta["val"].shape, n.meta["val"].dtype)
            for n in program.graph.find_nodes(op="output")[0].all_input_nodes
        ]
        use_known_operators(program.graph)
        program.graph.lint()
        program.graph_module.recompile()
        assert (operator in _names(program)) == (name in LEFT)
        assert shapes == [
            (n.meta["val"].shape, n.meta["val"].dtype)
            for n in program.graph.find_nodes(op="output")[0].all_input_nodes
        ]
        expected = function(x.clone())
        torch.testing.assert_close(program.module()(x.clone()), expected)


def test_pieces_of_symbolic_size_become_slices() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([piece * 2 for piece in x.split(2)] + [x.split(2)[0]])

    automatic = ({0: torch.export.Dim.AUTO},)
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = torch.export.export(
            Function(function), (torch.rand(6, 2),), dynamic_shapes=automatic, strict=False
        )
    assert "split" in _names(program)
    use_known_operators(program.graph)
    program.graph.lint()
    assert "split" not in _names(program)
    module = torch.fx.GraphModule(program.graph_module, program.graph)
    for rows in (6, 3, 9):  # as many pieces as the example, fewer, and more
        x = torch.rand(rows, 2)
        (result,) = module(x)
        torch.testing.assert_close(result, function(x))


def test_norms_of_groups_of_rows_become_one() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([functional.group_norm(piece, 2) for piece in x.split(2)], dim=0) * 2

    automatic = ({0: torch.export.Dim.AUTO},)
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = torch.export.export(
            Function(function), (torch.rand(6, 4, 3),), dynamic_shapes=automatic, strict=False
        )
    use_known_operators(program.graph)
    program.graph.lint()
    operators = [getattr(n.target, "_opname", "") for n in program.graph.nodes]
    assert operators.count("group_norm") == 1 and not {"split", "cat"} & set(operators)
    x = torch.rand(1, 4, 3)
    (result,) = torch.fx.GraphModule(program.graph_module, program.graph)(x)
    torch.testing.assert_close(result, function(x))


def test_chunks_of_symbolic_size_become_slices() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        first, second, third = x.chunk(3)
        return first.sum(0) + 2 * second.sum(0) - third.sum(0)

    automatic = ({0: torch.export.Dim.AUTO},)
    oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)
    with oblivious:
        program = torch.export.export(
            Function(function), (torch.rand(6, 2),), dynamic_shapes=automatic, strict=False
        )
    assert "chunk" in _names(program)
    slice_chunks(program.graph)
    program.graph.lint()
    program.graph_module.recompile()
    assert "chunk" not in _names(program)
    for size in (5, 6, 9, 11):  # the last chunk may be smaller
        x = torch.arange(2.0 * size).reshape(size, 2)
        torch.testing.assert_close(program.graph_module(x)[0], function(x))


@pytest.mark.slow
def test_no_program_of_known_operators_is_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from compiler.export.program import export_program
    from compiler.export.translate import translate
    from tests.compiler.made import method, spec

    def again(*_: object, **__: object) -> None:
        raise AssertionError("decomposed")

    def function(x: torch.Tensor) -> torch.Tensor:
        y = 1 - x
        y += ((x > 0) & (x < 1)).float()
        return y.detach_() * torch.view_as_real(torch.polar(x, x)).sum(-1)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", again)
    made = method(outputs=(spec("out_sample", "batch", 4),))
    translate(export_program(Function(function), made), made)
