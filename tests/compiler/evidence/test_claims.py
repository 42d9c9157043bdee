"""A manifest that claims a coarser scheme or type than its files hold gets no tolerance for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import GraphRecord, WeightRecord
from compiler.evidence.claims import contents, require_schemes, stored_in
from runtimes.sessions.onnx_format import ONNX, OnnxFormat, format_of
from runtimes.sessions.openvino_format import IR
from runtimes.sessions.session_contract import Contents
from tests.latentc.artifacts_made import made

MEGA = 1_000_000


def claiming(tmp_path: Path, scheme: str, **changes: Any) -> GraphRecord:
    weight = WeightRecord(key="a.weight", scheme=scheme, parameters=MEGA, bytes=MEGA, error=0.1)
    return made(tmp_path).graphs[0].model_copy(update={"weights": (weight,), **changes})


@pytest.mark.parametrize(
    ("scheme", "constants", "quantizes", "why"),
    [
        ("int4:group=64", {"float16": MEGA}, False, "its files hold 0 numbers of 4 bits"),
        ("int4", {"int8": MEGA}, False, "its files hold 0 numbers of 4 bits"),
        ("int4", {"uint4": 16}, False, "its files hold 16 numbers of 4 bits"),
        ("nf4", {"float16": MEGA, "int8": MEGA}, False, "hold 0 numbers of 4 bits"),
        ("int8", {"float32": MEGA, "int64": MEGA}, False, "hold 0 numbers of 8 bits"),
        ("int8-activations", {"int8": MEGA}, False, "its files round no activations"),
        ("int1", {"int8": MEGA}, False, "there is no weight scheme 'int1'"),
        ("int4", {"int4": MEGA}, False, ""),
        ("nf4", {"nf4": MEGA}, False, ""),
        ("int8", {"uint8": MEGA}, False, ""),
        ("int8-activations", {"int8": MEGA}, True, ""),
        ("none", {}, False, ""),
    ],
)
def test_a_scheme_is_believed_where_the_files_hold_it(
    tmp_path: Path, scheme: str, constants: dict[str, int], quantizes: bool, why: str
) -> None:
    graph = claiming(tmp_path, scheme)
    if not why:
        require_schemes(graph, Contents(constants, quantizes))
        return
    with pytest.raises(LatentcError, match="'unet' is not what its manifest says") as caught:
        require_schemes(graph, Contents(constants, quantizes))
    assert why in caught.value.message


def test_what_cannot_be_looked_into_is_not_believed(tmp_path: Path) -> None:
    with pytest.raises(LatentcError, match="nothing here looks into its files"):
        require_schemes(claiming(tmp_path, "int4"), None)


@pytest.mark.parametrize(
    ("precision", "constants", "held_to"),
    [
        ("bf16", {"bfloat16": 9}, "bf16"),
        ("bf16", {"float16": 9}, "fp32"),
        ("fp16", {"float32": 9}, "fp32"),
        ("fp16", {"float16": 1}, "fp16"),
        ("fp32", {"float16": 1}, "fp32"),
    ],
)
def test_the_type_of_the_tolerance_is_what_weights_are_stored_in(
    tmp_path: Path, precision: str, constants: dict[str, int], held_to: str
) -> None:
    graph = made(tmp_path).graphs[0].model_copy(update={"precision": precision})
    assert stored_in(graph, Contents(constants, False)) == held_to
    assert stored_in(graph, None) == precision


def onnx_file(file: Path, *nodes: onnx.NodeProto, **arrays: np.ndarray) -> Path:
    graph = onnx.helper.make_graph(
        list(nodes), "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [2])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph), str(file))
    return file


def test_onnx_files_say_what_they_hold(tmp_path: Path) -> None:
    node = onnx.helper.make_node
    file = onnx_file(
        tmp_path / "model.onnx",
        node("QuantizeLinear", ["x", "scale"], ["q"]),
        node("MatMulNBits", ["x", "packed", "scale"], ["a"], domain="com.microsoft", bits=4),
        node("MatMulBnb4", ["a", "table", "scale"], ["out"], domain="com.microsoft"),
        scale=np.ones(1, np.float32), packed=np.zeros((3, 5), np.uint8), table=np.zeros(7, np.uint8),
        plain=np.zeros((2, 2), np.float16),
    )  # fmt: skip
    held = ONNX.contents(file)
    assert held == Contents({"float32": 1, "uint4": 30, "nf4": 14, "float16": 4}, True)
    assert sorted(ONNX.values(file)) == ["a", "q"]


def test_ir_files_say_what_they_hold(tmp_path: Path) -> None:
    constants = (("i8", "4, 8"), ("u4", "16"), ("nf4", "8"), ("f16", "3"), ("f32", ""))
    layers = [
        f'<layer id="{i}" type="Const"><data element_type="{kind}" shape="{shape}"/></layer>'
        for i, (kind, shape) in enumerate(constants)
    ]
    file = tmp_path / "model.xml"
    file.write_text(f"<net><layers>{''.join(layers)}</layers><edges/></net>")
    assert IR.contents(file) == Contents(
        {"int8": 32, "uint4": 16, "nf4": 8, "float16": 3, "float32": 1}, False
    )
    file.write_text("<net><layers>")
    with pytest.raises(LatentcError, match="is not an OpenVINO model"):
        IR.contents(file)


def test_a_factory_may_bring_its_own_format_and_a_target_its_graph(tmp_path: Path) -> None:
    own, plain = OnnxFormat(), SimpleNamespace()
    assert format_of(SimpleNamespace(format=own), tmp_path / "a.engine") is own  # type: ignore[arg-type]
    assert format_of(plain, tmp_path / "a.engine") is None  # type: ignore[arg-type]
    (tmp_path / "unet").mkdir()
    onnx_file(tmp_path / "unet" / "model.onnx", onnx.helper.make_node("Relu", ["x"], ["out"]))
    graph = made(tmp_path / "a").graphs[0].model_copy(update={"model_file": "unet/model.engine"})
    target = SimpleNamespace(rebuild=SimpleNamespace(graph="model.onnx"))
    assert contents(target, plain, graph, tmp_path) == Contents({}, False)  # type: ignore[arg-type]
    assert contents(SimpleNamespace(rebuild=None), plain, graph, tmp_path) is None  # type: ignore[arg-type]
