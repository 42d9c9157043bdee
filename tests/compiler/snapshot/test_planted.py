"""Each planted change is found, named at its module and nowhere else; harmless ones are not."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from compiler.snapshot import report
from tests.compiler.snapshot import planting
from tests.compiler.snapshot.planting import ATTENTION, changes, quantize

BLOCK = ATTENTION.removesuffix(".attn1")

# Planted change -> its class, the module, words that have to be there, and modules that may be told of as well
# (those that read what changed).
PLANTED = {
    "transpose_weight": ("weights", f"{ATTENTION}.to_q", "transposed", ()),
    "swap_weights": (
        "weights",
        f"{ATTENTION}.to_q",
        "weight weight is now ^to_k.weight",
        (f"{ATTENTION}.to_k",),
    ),
    "drop_scale": ("ops", ATTENTION, "-1 Mul", ()),
    "change_epsilon": ("attributes", "mid_block.resnets.0.norm1", "epsilon=1e-05 -> epsilon=0.001", ()),
    "insert_cast": ("casts", f"{BLOCK}.norm2", "+1 Cast float32->float16 between Add and Cast", ()),
    "break_attention": ("patterns", ATTENTION, "attention pattern lost: 8 -> 7", ()),
    "swap_skips": ("wiring", "up_blocks.1", "Concat reads conv_in instead of down_blocks.0.resnets.0", ()),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_changes_are_named_at_their_module(name, unet, exported):
    kind, module, words, beside = PLANTED[name]
    before = unet.clone()
    getattr(planting, name)(unet)
    found = changes(before, unet, exported)
    told = "\n".join(report.lines(found))
    assert found[0].kind == kind, told
    assert module in {path for change in found if change.kind == kind for path in change.modules}, told
    assert words in told
    assert {path for change in found for path in change.modules} <= {module, *beside}, told


def test_a_dimension_that_is_baked_in(unet, exported):
    before = unet.clone()
    planting.bake_dimension(unet)
    found = changes(before, unet, exported)
    assert found[0].kind == "signature"
    assert found[0].text == "input sample: float32 [batch, 4, 16, 16] -> float32 [2, 4, 16, 16]"
    (reshape,) = [c for c in found if c.kind == "attributes"]
    assert reshape.modules == (ATTENTION,)
    assert "Reshape constant [" in reshape.text


def test_an_extra_output(unet, exported):
    before = unet.clone()
    planting.add_output(unet)
    found = changes(before, unet, exported)
    assert [(c.kind, c.modules) for c in found] == [("signature", ())]
    assert found[0].text.startswith("output mid_sample is new (float32 [")


def test_an_opset_bump(unet, exported):
    before = unet.clone()
    planting.bump_opset(unet)
    assert [(c.kind, c.text) for c in changes(before, unet, exported)] == [("opset", "opset onnx 21 -> 22")]


def test_a_layer_left_in_float(unet, exported):
    before = unet.clone()
    quantize(before)
    quantize(unet, but=f"{ATTENTION}.to_v")
    found = changes(before, unet, exported)
    assert {c.kind for c in found if c.modules} == {"quantization"}
    assert {path for c in found for path in c.modules} == {f"{ATTENTION}.to_v"}
    assert any(c.text == "weight weight: int8 [32, 32] -> float32 [32, 32] transposed 1,0" for c in found)
    assert any(c.text == "-1 DequantizeLinear" for c in found)


@pytest.mark.parametrize("name", ["rename", "reorder", "reverse_initializers"])
def test_harmless_changes_are_not_told(name, unet, exported):
    before = unet.clone()
    getattr(planting, name)(unet)
    assert planting.snapshot(unet, exported).text() == planting.snapshot(before, exported).text()


def test_a_module_by_another_name_is_a_change_of_names_alone(unet, exported):
    before = unet.clone()
    for node in unet.graph:
        path = node.metadata_props.get("latentc.module", "")
        node.metadata_props["latentc.module"] = path.replace("mid_block", "middle")
    for value in unet.graph.initializers.values():
        ref = value.const_value
        if hasattr(ref, "source"):
            import dataclasses

            from targets.graph.weights import WeightRef

            source = dataclasses.replace(ref.source, key=ref.source.key.replace("mid_block", "middle"))
            value.const_value = WeightRef(source, ref.transforms)
    found = changes(before, unet, exported)
    assert {c.kind for c in found} == {"names"}, "\n".join(report.lines(found))


def test_inputs_in_another_order_are_a_change_of_order_alone(unet, exported):
    before = unet.clone()
    first: ir.Value = unet.graph.inputs.pop(0)
    unet.graph.inputs.append(first)
    assert [c.kind for c in changes(before, unet, exported)] == ["order"]


def test_the_graph_knows_its_modules_patterns_and_costs(unet, exported):
    (graph,) = planting.snapshot(unet, exported).graphs
    assert graph.patterns["attention"] == 8
    assert graph.patterns["GEGLU"] == 4
    assert f"{ATTENTION}.to_q" in graph.modules
    assert not [path for path in graph.modules if path.startswith(("module", "_"))]
    assert graph.sizes["batch"] == 1
    conv_in = graph.modules["conv_in"]
    assert conv_in.cost.flops == 2 * 16 * 16 * 16 * 4 * 9
    assert conv_in.cost.parameters == 16 * 4 * 9 + 16
    assert conv_in.cost.bytes == 16 * 16 * 16 * 4
