from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import onnx_ir as ir
import pytest

from artifacts.errors import LatentcError
from targets.openvino.target import TARGET, OpenVinoOptions
from targets.target_contract import Context
from tests.contract.graphs import Denoiser, model, named, value
from tests.contract.target_contract import TargetContract


class TestOpenVino(TargetContract):
    name = "openvino"
    vendor = "openvino"


@pytest.mark.parametrize(("precision", "element"), [("fp32", "f32"), ("fp16", "f16"), ("bf16", "bf16")])
def test_constants_keep_their_element_type(precision: str, element: str, tmp_path: Path) -> None:
    TARGET.lower(Denoiser(precision).model(), OpenVinoOptions(), tmp_path, Context())
    layers = ElementTree.parse(tmp_path / "openvino_model.xml").getroot().iter("layer")
    data = [layer.find("data") for layer in layers if layer.get("type") == "Const"]
    large = [d for d in data if d is not None and int(d.get("size", "0")) >= 8192]
    assert [d.get("element_type") for d in large] == [element] * 3


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_weights_of_16_bits_are_not_widened_while_loading(precision: str, tmp_path: Path) -> None:
    """OpenVINO leaves alone what bears the mark of its own compression: it reads it back as such."""
    ov = pytest.importorskip("openvino")
    written = TARGET.lower(Denoiser(precision).model(), OpenVinoOptions(), tmp_path, Context())
    ops = ov.Core().read_model(tmp_path / written.model_file).get_ops()
    widens = [
        op
        for op in ops
        if op.get_type_name() == "Convert" and op.input_value(0).get_node().get_type_name() == "Constant"
    ]
    assert bool(widens) == (precision != "fp32")
    assert all("decompression_0" in op.get_rt_info() for op in widens)
    others = [op for op in ops if op.get_type_name() == "Convert" and op not in widens]
    assert others and not any("decompression_0" in op.get_rt_info() for op in others)


def test_an_operator_without_a_rule_is_our_error(tmp_path: Path) -> None:
    x = value("x", ir.DataType.FLOAT, ["n"])
    node = ir.node("NoSuchOperator", [x])
    graph = model([x], [named(node, "y", ir.DataType.FLOAT, ["n"])], [node])
    with pytest.raises(LatentcError, match=r"cannot convert .*NoSuchOperator") as raised:
        TARGET.lower(graph, OpenVinoOptions(), tmp_path, Context())
    assert "--target onnxruntime" in raised.value.hint
    assert not list(tmp_path.iterdir())
