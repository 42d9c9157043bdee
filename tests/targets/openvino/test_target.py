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


def test_a_result_has_the_graphs_name_alone_and_one_tensor_may_be_two_results(tmp_path: Path) -> None:
    """The frontend adds names of its own, and takes nodes away that change nothing."""
    import numpy as np

    from runtimes.sessions.openvino import SESSION

    pytest.importorskip("openvino")
    x = value("x", ir.DataType.FLOAT, ["n"])
    inner = ir.node("Abs", [x])
    a_inner = named(inner, "inner", ir.DataType.FLOAT, ["n"])
    nodes = [inner, *(ir.node("Identity", [source]) for source in (a_inner, a_inner, x))]
    results = [
        named(node, name, ir.DataType.FLOAT, ["n"])
        for node, name in zip(nodes[1:], ("a", "other", "same"), strict=True)
    ]
    written = TARGET.lower(model([x], results, nodes), OpenVinoOptions(), tmp_path, Context())
    session = SESSION.open(tmp_path / written.model_file, "cpu", "fp32", None)
    assert list(session.outputs) == ["a", "other", "same"] and list(session.inputs) == ["x"]
    given = np.array([-1.0, 2.0], np.float32)
    outputs = session.run({"x": given})
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "a": [1.0, 2.0], "other": [1.0, 2.0], "same": [-1.0, 2.0],
    }  # fmt: skip
    session.close()


def test_an_operator_without_a_rule_is_our_error(tmp_path: Path) -> None:
    x = value("x", ir.DataType.FLOAT, ["n"])
    node = ir.node("NoSuchOperator", [x])
    graph = model([x], [named(node, "y", ir.DataType.FLOAT, ["n"])], [node])
    with pytest.raises(LatentcError, match=r"cannot convert .*NoSuchOperator") as raised:
        TARGET.lower(graph, OpenVinoOptions(), tmp_path, Context())
    assert "--target onnxruntime" in raised.value.hint
    assert not list(tmp_path.iterdir())
