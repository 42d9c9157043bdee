"""The default passes and both precisions on what torch's exporter really emits, at two sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compiler.passes import pass_table
from compiler.passes.precision_strong import PrecisionStrongPass
from compiler.passes.precision_weights import PrecisionWeightsPass
from targets.graph.weights import WeightRef
from tests.compiler.passes.exported import CASES, export, feeds
from tests.compiler.passes.graphs import error, evaluate, ops

# Ops that only the exporter's own bookkeeping needs; none may survive.
_BOOKKEEPING = {"Constant", "CastLike", "Identity", "SequenceAt", "SplitToSequence", "IsNaN"}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_exported_module(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    sizes = [feeds(case, [shape for shape, _ in case.inputs]), feeds(case, case.other)]
    model, real = export(case, tmp_path)
    with torch.no_grad():
        want = [[real(*map(torch.from_numpy, size)).numpy()] for size in sizes]
    before = len(model.graph)
    pass_table.run(model, check=True)
    assert not _BOOKKEEPING & set(ops(model))
    assert len(model.graph) < before / 2 if name != "vae_decoder" else len(model.graph) < before * 0.6
    transposed = [n for n in model.graph if n.op_type == "Transpose" and n.inputs[0].is_initializer()]  # type: ignore[union-attr]
    assert not transposed
    assert sum(isinstance(v.const_value, WeightRef) for v in model.graph.initializers.values()) > 10
    assert all(
        error(evaluate(model, size), expected) < 3e-6 for size, expected in zip(sizes, want, strict=True)
    )
    stored = pass_table.run(model.clone(), (PrecisionWeightsPass(),), check=True)
    assert all(
        error(evaluate(stored, size), expected) < 2e-3 for size, expected in zip(sizes, want, strict=True)
    )
    strong = pass_table.run(model.clone(), (PrecisionStrongPass(),), check=True)
    assert all(
        error(evaluate(strong, size), expected) < 1e-2 for size, expected in zip(sizes, want, strict=True)
    )
