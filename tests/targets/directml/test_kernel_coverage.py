from __future__ import annotations

import json
from typing import Any

import onnx_ir as ir
import pytest

from artifacts.errors import LatentcError
from targets.directml.kernel_coverage import MODULE, coverage, require_covered
from targets.directml.kernels import FILE, derive, table
from tests.contract.graphs import model, named, value

F16, FP32, U8 = ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.UINT8


def graph(
    op: str,
    inputs: list[ir.Value | None],
    out: tuple[ir.DataType, list[int | str]] = (F16, [2, 8]),
    domain: str = "",
    opset: int = 20,
    **attributes: Any,
) -> ir.Model:
    """A graph of one node, which came from a module "blocks.0"."""
    node = ir.node(op, inputs, attributes, domain=domain, name="it")
    node.metadata_props[MODULE] = "blocks.0"
    made = model([v for v in inputs if v is not None], [named(node, "out", *out)], [node], opset=opset)
    made.graph.opset_imports["com.microsoft"] = 1
    return made


def half(name: str = "x", shape: tuple[int | str, ...] = (2, 8), dtype: ir.DataType = F16) -> ir.Value:
    return value(name, dtype, list(shape))


def only(found: ir.Model) -> str:
    (fallback,) = coverage(found).fallbacks
    assert fallback.module == "blocks.0"
    assert fallback.node == "it"
    return fallback.reason


def nbits(inputs: int, **attributes: Any) -> ir.Model:
    given = [
        half("a", (2, 64)),
        half("b", (8, 2, 16), U8),
        half("scales", (8, 2)),
        half("zeros", (8,), U8),
        half("order", (64,), ir.DataType.INT32),
    ]
    attributes = {"bits": 4, "K": 64, "N": 8, "block_size": 32, **attributes}
    return graph("MatMulNBits", list(given[:inputs]), domain="com.microsoft", **attributes)


@pytest.mark.parametrize(
    "good",
    [
        graph("MatMul", [half(), half("y", (8, 8))]),
        graph("Conv", [half("x", (1, 4, 8, 8)), half("w", (4, 4, 1, 1))], (F16, [1, 4, 8, 8])),
        graph("Cast", [half(dtype=FP32)], to=int(F16)),
        graph("DequantizeLinear", [half(dtype=ir.DataType.UINT4), half("s")], opset=21, axis=1, block_size=1),
        nbits(4),
    ],
    ids=["MatMul", "Conv", "Cast", "int4", "MatMulNBits"],
)
def test_what_the_provider_runs(good: ir.Model) -> None:
    found = require_covered(good)
    assert found.total == 1
    assert str(found).startswith("1 of 1 nodes")


def test_a_bf16_tensor_is_caught() -> None:
    bf16 = ir.DataType.BFLOAT16
    reason = only(graph("Mul", [half(dtype=bf16), half("y", dtype=bf16)], (bf16, [2, 8])))
    assert reason.startswith("'x' is bfloat16, and T takes float, float16, int16")


def test_opset_22_is_caught() -> None:
    conv = graph("Conv", [half("x", (1, 4, 8, 8)), half("w", (4, 4, 1, 1))], (F16, [1, 4, 8, 8]), opset=22)
    assert only(conv) == "opset 22 means version 22 of it, and the provider has 11, 1"


def test_an_open_version_is_no_promise_for_later_ones() -> None:
    # The table's "13+" of DequantizeLinear does not cover the schema of opset 21 with int32, nor of 23.
    def dequantize(opset: int) -> ir.Model:
        return graph("DequantizeLinear", [half(dtype=ir.DataType.INT32), half("s")], opset=opset)

    assert "int32" in only(dequantize(21))
    assert "version 23" in only(dequantize(23))


def test_an_unknown_contrib_op_is_caught() -> None:
    assert (
        only(graph("SkipGroupNorm", [half()], domain="com.microsoft")) == "the provider has no such operator"
    )
    assert only(graph("MatMulBnb4", [half()], domain="com.microsoft")) == "the provider has no such operator"


@pytest.mark.parametrize("inputs", [3, 5])
def test_matmul_nbits_of_other_than_four_inputs_is_caught(inputs: int) -> None:
    assert only(nbits(inputs)) == f"it has {inputs} inputs, and the kernel takes exactly 4"


def test_matmul_nbits_of_two_bits_is_caught() -> None:
    assert only(nbits(4, bits=2)) == "2 bits, and the kernel takes 4 and 8"


def test_a_symbolic_dimension_is_caught() -> None:
    found = coverage(graph("Relu", [half("x", ("batch", 8))], (F16, ["batch", 8]))).fallbacks
    assert [(f.op, f.reason) for f in found] == [
        ("input", "'x' has the symbolic dimension 'batch'"),
        ("Relu", "'x' has the symbolic dimension 'batch'"),
    ]


def test_an_unknown_shape_or_type_is_no_pass() -> None:
    made = graph("Relu", [half()])
    made.graph.outputs[0].shape = None
    assert only(made) == "the shape of 'out' is not known"
    made = graph("Relu", [half()])
    made.graph.outputs[0].type = None
    assert only(made) == "the element type of 'out' is not known"


def test_nodes_of_subgraphs_are_checked() -> None:
    inner = ir.node("GroupNormalization", [], name="it")
    branch = ir.Graph([], [named(inner, "y", F16, [1, 4, 8])], nodes=[inner], name="b")
    made = graph("If", [half("c", (), ir.DataType.BOOL)], (F16, [1, 4, 8]))
    made.graph[0].attributes["then_branch"] = ir.AttrGraph("then_branch", branch)
    assert [f.op for f in coverage(made).fallbacks] == ["GroupNormalization"]


def test_an_attention_bias_must_have_its_full_shape() -> None:
    def attention(rows: int) -> ir.Model:
        qkv = [half(n, (1, 4, 8)) for n in "qkv"]
        bias = half("bias", (1, 2, rows, 4))
        return graph(
            "MultiHeadAttention", [*qkv, None, None, bias], (F16, [1, 4, 8]), "com.microsoft", num_heads=2
        )

    assert coverage(attention(4)).fallbacks == ()
    assert only(attention(1)) == "the kernel takes an attention bias of its full shape only"


def test_the_error_names_op_reason_and_module() -> None:
    expected = r"1 of 1 nodes of 'main' would run on the CPU.*MatMulNBits 'it' of blocks\.0: it has 5 inputs"
    with pytest.raises(LatentcError, match=expected):
        require_covered(nbits(5))


PAGE = """
## Operators implemented by CPUExecutionProvider
|**Operator Domain:** *ai.onnx*||||
|Only|*in* X:**T**|7+|**T** = tensor(float)|

## Operators implemented by DmlExecutionProvider

| Op Name | Parameters | OpSet Version | Types Supported |
|---------|------------|---------------|-----------------|
|**Operator Domain:** *ai.onnx*||||
|Abs|*in* X:**T**<br> *out* Y:**T**|13+|**T** = tensor(float), tensor(int8)|
|||6+|**T** = tensor(float), tensor(int8)|
|||[1, 5]|**T** = tensor(float)|
|SequenceAt|*in* input_sequence:**S**<br> *out* tensor:**T**|11+|**S** = seq(tensor(float))<br/> **T** = tensor(float)|
| |
|**Operator Domain:** *com.microsoft*||||
|Scaled|*in* X:**T**<br> *in* s:**tensor(float)**<br> *out* Y:**T**|1+|**T** = tensor(float16)|
|**Operator Domain:** *com.microsoft.dml*||||
|DmlFusedAdd|*in* A:**T**|1+|**T** = tensor(float)|
"""


def test_derives_the_table_from_the_published_page() -> None:
    assert derive(PAGE) == {
        "": {
            "Abs": [
                {"versions": [13, 6], "types": {"T": "float int8"}},
                {"versions": [[1, 5]], "types": {"T": "float"}},
            ]
        },
        "com.microsoft": {
            "Scaled": [
                {"versions": [1], "types": {"T": "float16"}, "inputs": ["T", "float"], "outputs": ["T"]}
            ]
        },
    }
    with pytest.raises(ValueError, match="no section"):
        derive("# something else")


def test_the_shipped_table_says_where_it_came_from() -> None:
    assert len(table().commit) == 40
    assert json.loads(FILE.read_text(encoding="utf-8"))["source"]["repository"] == "microsoft/onnxruntime"
    assert len(table().kernels) > 180
    assert {kernel.since for kernel in table().kernels["", "Reshape"]} == {21, 19, 14, 13, 5}
    assert not any("bfloat16" in k.types.get("T", ()) for rows in table().kernels.values() for k in rows)
