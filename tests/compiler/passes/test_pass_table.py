"""The list of passes, and what `run` promises."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from artifacts.errors import UsageError
from compiler.passes import pass_table
from tests.compiler.passes.graphs import ghost, parse


def test_every_pass_is_made_without_arguments() -> None:
    assert set(pass_table.DEFAULT) <= set(pass_table.PASSES)
    assert all(isinstance(pass_table.make(name), ir.passes.PassBase) for name in pass_table.PASSES)


def test_an_unknown_pass_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no graph pass 'foldd'.*inline, fold"):
        pass_table.make("foldd")


def test_dumps_are_numbered_and_name_weights(tmp_path: Path) -> None:
    model = parse("(float[N,4] x, float[4,4] w) => (float[N,4] y) { y = MatMul(x, w) }")
    ghost(model, w=(4, 4))
    pass_table.run(model, ("fold", "dead"), dump=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00-export.txt", "01-fold.txt", "02-dead.txt"]
    assert "MatMul" in (tmp_path / "02-dead.txt").read_text(encoding="utf-8")


def test_check_names_the_pass_that_broke_the_graph() -> None:
    class Breaks(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            next(iter(model.graph)).op_type = "NoSuchOp"
            return ir.passes.PassResult(model, True)

    model = parse("(float[N] x) => (float[N] y) { y = Relu(x) }")
    with pytest.raises(ir.passes.InvariantError, match="after pass 'Breaks'"):
        pass_table.run(model, (Breaks(),), check=True)


def test_check_leaves_weights_where_they_were() -> None:
    model = parse("(float[N,4] x, float[4,4] w) => (float[N,4] y) { y = MatMul(x, w) }")
    ghost(model, w=(4, 4))
    pass_table.run(model, ("dead",), check=True)
    value = model.graph.initializers["w"]
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert not value.is_graph_input() and value.const_value is not None
