"""Exported programs as ONNX: names, operators that are rewritten on the way, and what has no ONNX form."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
import torch

from artifacts.errors import LatentcError
from compiler.export.graph_export import require_standard
from compiler.export.program import export_program
from compiler.export.translate import OPSET, translate
from tests.compiler.made import method, spec
from tests.compiler.passes.graphs import parse


class Several(torch.nn.Module):
    """An outer product of mixed types, casts and copies, a maximum, an assertion."""

    def forward(self, x):
        torch._assert(x.shape[1] == 4, "four")
        y = torch.outer(x[:, 0], torch.arange(4)).contiguous()
        return torch.maximum(y.to(torch.float64).to(x), x) + torch.max(x, y)


class Norms(torch.nn.Module):
    """Root mean square norms, with and without weight and epsilon; an integer that becomes a float."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        y = torch.nn.functional.rms_norm(x, (4,), self.weight, 1e-6)
        steps = torch.arange(4)
        return torch.nn.functional.rms_norm(y + steps / 2 + steps * 0.5, x.shape[1:])


class Interleaved(torch.nn.Module):
    """Rows of a constant, each as often in turn as `x` has rows: what a video does for each of its frames."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        rows = torch.arange(6.0).reshape(2, 3)
        return rows.repeat_interleave(x.shape[0], dim=self.dim).reshape(x.shape[0], -1)


class Strange(torch.nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def run(model: ir.Model, **inputs: torch.Tensor) -> list:
    from onnx.reference import ReferenceEvaluator

    common.InlinePass()(model)
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    return evaluator.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


def test_the_graph_computes_what_the_module_does_at_any_size():
    from torch.onnx._internal.exporter import _fx_passes

    before = _fx_passes.decompose_with_registry
    made = method(outputs=(spec("out_sample", "batch", 4),))
    model = translate(export_program(Several(), made), made)
    assert _fx_passes.decompose_with_registry is before
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert [v.name for v in model.graph.outputs] == ["out_sample"]
    assert model.opset_imports[""] == OPSET
    operators = {node.op_type for node in model.graph}
    assert not any("assert" in name.lower() for name in operators)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(torch.from_numpy(run(model, x=x)[0]), Several()(x))


@pytest.mark.slow
@pytest.mark.parametrize("dim", (None, 0, 1, -1))
def test_rows_repeated_as_often_as_a_size_says(dim):
    made, module = method(outputs=(spec("out", "batch", 6),)), Interleaved(dim)
    model = translate(export_program(module, made), made)
    for batch in (1, 2, 3, 5):
        x = torch.zeros(batch, 4)
        torch.testing.assert_close(torch.from_numpy(run(model, x=x)[0]), module(x))


def test_known_operators_and_types_are_not_traced_again(monkeypatch):
    from torch.export import ExportedProgram

    made, module = method(), Norms()
    program = export_program(module, made)
    monkeypatch.delattr(ExportedProgram, "run_decompositions")
    model = translate(program, made)
    weight = next(v for v in model.graph.initializers.values() if list(v.shape) == [4])
    weight.const_value = ir.tensor(module.weight.detach().numpy(), name=weight.name)
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.from_numpy(run(model, x=x)[0]), module(x))


class Wide(torch.nn.Module):
    def forward(self, x):
        with torch.amp.autocast("cuda", enabled=False):
            z = torch.view_as_complex(x.reshape(*x.shape[:-1], 2, 2))
            return torch.view_as_real(z * z).flatten(-2)


def test_complex_numbers_where_autocast_is_turned_off():
    made = method()
    model = translate(export_program(Wide(), made), made)
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.from_numpy(run(model, x=x)[0]), Wide()(x))


class InPlace(torch.nn.Module):
    def forward(self, x):
        y = x * 2
        y += x
        return y


def test_a_result_that_was_changed_in_place_is_still_the_result():
    made = method()
    model = translate(export_program(InPlace(), made), made)
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.from_numpy(run(model, x=x)[0]), InPlace()(x))


def test_what_has_no_onnx_form_is_named():
    with pytest.raises(LatentcError, match=r"'unet\.forward' has no ONNX form: .*bessel_j0"):
        translate(export_program(Strange(), method()), method())


def test_a_graph_of_sequences_is_none_that_runtimes_are_given() -> None:
    body = """(float[N] x) => (float[M] y) {{
        size = Constant<value_int=2>()
        first = Constant<value_int=0>()
        {pieces}
    }}"""
    plain = parse(body.format(pieces="y = Gather(x, size)"))
    require_standard(plain, method())
    sequences = parse(body.format(pieces="s = SplitToSequence(x, size) y = SequenceAt(s, first)"))
    with pytest.raises(LatentcError, match="has a graph of SequenceAt, SplitToSequence, which"):
        require_standard(sequences, method())
