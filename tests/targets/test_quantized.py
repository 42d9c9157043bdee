"""Quantized weights stay compressed: in the files, and in what the vendors' runtimes execute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler.passes.lower_precision import lower_precision
from runtimes.sessions import session_table as runtimes
from targets import target_table as targets
from targets.target_contract import Context
from tests.compiler.passes.graphs import error, evaluate
from tests.compiler.quantize.made import KINDS, Case, case, quantized

SCHEMES = [
    ("int8", {}, "i8", onnx.TensorProto.INT8),
    ("int8", {"asymmetric": True}, "u8", onnx.TensorProto.UINT8),
    ("int4", {}, "i4", onnx.TensorProto.INT4),
    ("int4", {"asymmetric": True}, "u4", onnx.TensorProto.UINT4),
    ("nf4", {}, "nf4", onnx.TensorProto.UINT8),
]
NAMES = [f"{scheme}{'-asymmetric' * bool(options)}" for scheme, options, *_ in SCHEMES]


def written(
    kind: str, scheme: str, options: dict, target: str, folder: Path, precision: str = "fp16"
) -> tuple:
    """The case, its record and the file that the target wrote of it."""
    made = case(kind, folder)
    (record,) = quantized(made, folder, scheme, **options).records
    model, _ = lower_precision(made.model, precision, "weights")
    out = folder / target
    out.mkdir()
    chosen = targets.get(target)
    lowered = chosen.lower(model, chosen.options(), out, Context())
    assert {p.name for p in out.iterdir()} == set(lowered.files)
    return made, record, out / lowered.model_file


def drawn(target: str, file: Path, made: Case) -> np.ndarray:
    session = runtimes.get(target).open(file, "cpu", "fp32", None)
    try:
        return session.run(made.feeds)["y"]
    finally:
        session.close()


def constants(file: Path) -> dict[str, str]:
    """Element type of each of the IR's constants, by name."""
    import openvino as ov

    model = ov.Core().read_model(file)
    return {
        op.get_friendly_name(): op.get_element_type().get_type_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() == "Constant"
    }


@pytest.mark.parametrize(("scheme", "options", "kind", "onnx_type"), SCHEMES, ids=NAMES)
def test_openvino_keeps_the_constants_in_the_ir_and_in_the_executed_graph(
    scheme, options, kind, onnx_type, tmp_path
):
    ov = pytest.importorskip("openvino")
    _, record, file = written("matmul", scheme, options, "openvino", tmp_path)
    assert constants(file)["w"] == kind
    # Values and fp16 scales, and little else.
    size = file.with_suffix(".bin").stat().st_size
    assert record.bytes <= size < record.bytes + 400
    compiled = ov.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    info = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    executed = [(i["layerType"].astype(str), i["outputPrecisions"].astype(str)) for i in info]
    assert ("Const", kind) in executed
    assert [layer for layer, _ in executed if layer in ("FullyConnected", "MatMul")] == ["FullyConnected"]


@pytest.mark.parametrize(("scheme", "options", "kind", "onnx_type"), SCHEMES, ids=NAMES)
def test_onnx_initializers_are_of_the_type(scheme, options, kind, onnx_type, tmp_path):
    pytest.importorskip("onnxruntime")
    _, _record, file = written("matmul", scheme, options, "onnxruntime", tmp_path)
    model = onnx.load(file)
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types["w.packed" if scheme == "nf4" else "w"] == onnx_type
    assert types["w.scale"] == (onnx.TensorProto.FLOAT if scheme == "int8" else onnx.TensorProto.FLOAT16)
    if scheme != "nf4":
        onnx.checker.check_model(model, full_check=True)
        assert "com.microsoft" not in {node.domain for node in model.graph.node}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scheme", "options", "element", "onnx_type"), SCHEMES, ids=NAMES)
def test_both_targets_compute_the_same(kind, scheme, options, element, onnx_type, tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    results = {}
    for target in ("openvino", "onnxruntime"):
        folder = tmp_path / target
        folder.mkdir()
        made, record, file = written(kind, scheme, options, target, folder)
        results[target] = drawn(target, file, made)
    assert error([results["openvino"]], [results["onnxruntime"]]) < 1e-3
    plain = tmp_path / "plain"
    plain.mkdir()
    reference = evaluate(case(kind, plain).model, [made.x])
    assert error([results["openvino"]], reference) < 2 * record.error


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kind", ["matmul", "conv"])
def test_corrections_are_computed_too(kind, target, tmp_path):
    pytest.importorskip(target)
    made, record, file = written(kind, "int4", {"low_rank": 4}, target, tmp_path)
    plain = tmp_path / "plain"
    plain.mkdir()
    assert "low_rank=4" in record.scheme
    reference = evaluate(case(kind, plain).model, [made.x])
    assert error([drawn(target, file, made)], reference) < 1.5 * record.error


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_precision_around_the_quantized_weights(precision, tmp_path):
    pytest.importorskip("openvino")
    made, record, file = written("gemm", "int4", {}, "openvino", tmp_path, precision)
    assert constants(file)["w"] == "i4"
    plain = tmp_path / "plain"
    plain.mkdir()
    assert (
        error([drawn("openvino", file, made)], evaluate(case("gemm", plain).model, [made.x]))
        < 2 * record.error
    )
