"""What a target's requirements say of the graph at the end of its road."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from artifacts.errors import LatentcError
from compiler.road import require_taken
from targets import target_table
from targets.graph.onnx_files import fix_dims, symbols
from tests.contract import foreign_target
from tests.contract.graphs import Denoiser


@pytest.mark.parametrize(
    ("opset", "fits"), [((17, 20), False), ((22, 23), False), ((17, 21), True), ((21, 23), True)]
)
def test_a_graph_is_of_an_opset_that_its_target_takes(opset: tuple[int, int], fits: bool) -> None:
    own = foreign_target.TARGET
    target = SimpleNamespace(name=own.name, requirements=replace(own.requirements, opset=opset))
    model = Denoiser("fp32").model()
    assert model.opset_imports[""] == 21
    if fits:
        require_taken(target, model, "unet")  # type: ignore[arg-type]
        return
    with pytest.raises(LatentcError) as caught:
        require_taken(target, model, "unet")  # type: ignore[arg-type]
    assert caught.value.message == (
        f"target 'abacus' takes graphs of opset {opset[0]} to {opset[1]}; 'unet' is of opset 21."
    )


def test_a_graph_of_several_sizes_is_refused_where_a_target_takes_one() -> None:
    own = foreign_target.TARGET
    target = SimpleNamespace(name=own.name, requirements=replace(own.requirements, dynamic_shapes=False))
    model = Denoiser("fp32").model()
    assert symbols(model)
    with pytest.raises(LatentcError, match="takes graphs of one size; 'unet' has ranges: .*batch"):
        require_taken(target, model, "unet")  # type: ignore[arg-type]
    require_taken(target, fix_dims(model, dict.fromkeys(symbols(model), 2)), "unet")  # type: ignore[arg-type]


def test_our_targets_take_what_is_exported() -> None:
    from compiler.export.translate import OPSET

    for name in target_table.TARGETS:
        low, high = target_table.get(name).requirements.opset
        assert low <= OPSET <= high
