"""Graph files that no target writes: refused by their structure, before a vendor's parser sees them."""

from __future__ import annotations

import random
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from artifacts.errors import LatentcError
from runtimes.sessions import onnx_structure, openvino_structure, session_table
from runtimes.sessions.onnx_structure import check_onnx
from runtimes.sessions.openvino_structure import check_openvino
from targets import target_table as targets
from targets.onnxruntime.file_format import FORMAT as ONNX
from targets.openvino.file_format import FORMAT as IR
from targets.target_contract import Context
from tests.contract.graphs import Denoiser

# --- ONNX ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = targets.get("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx")
    target.lower(Denoiser().model(), target.options(), folder, Context())
    check_onnx(folder / "model.onnx", ONNX)
    return folder


def model(nodes: list[Any], **more: Any) -> Any:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph(nodes, "g", [value], [result]), **more)


def branch() -> Any:
    return helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "inner", [], [])


def tensor(**fields: Any) -> Any:
    return TensorProto(**({"name": "w", "data_type": 1, "dims": [4]} | fields))


def constant(value: Any) -> Any:
    return model([helper.make_node("Constant", [], ["y"], value=value)])


def with_graph(change: Callable[[Any], object]) -> Any:
    made = model([helper.make_node("Relu", ["x"], ["y"])])
    change(made)
    return made


REFUSED = {
    "a loop": (model([helper.make_node("Loop", ["x"], ["y"], body=branch())]), "a graph inside|'Loop'"),
    "a branch": (model([helper.make_node("If", ["x"], ["y"], then_branch=branch())]), "a graph inside|'If'"),
    "a scan": (model([helper.make_node("Scan", ["x"], ["y"], num_scan_inputs=1)]), "operator 'Scan'"),
    "a graph in an operator that has none": (
        model([helper.make_node("Relu", ["x"], ["y"], hidden=branch())]),
        "a graph inside of a node",
    ),
    "graphs in an operator that has none": (
        model([helper.make_node("Relu", ["x"], ["y"], hidden=[branch(), branch()])]),
        "a graph inside of a node",
    ),
    "somebody's domain": (model([helper.make_node("Relu", ["x"], ["y"], domain="evil")]), "'Relu' of 'evil'"),
    "an operator of a vendor's that the target does not write": (
        model([helper.make_node("DecoderMaskedSelfAttention", ["x"], ["y"], domain="com.microsoft")]),
        "of 'com.microsoft'",
    ),
    "Python in an operator": (
        model([helper.make_node("PyOp", ["x"], ["y"], domain="ai.onnx.contrib")]),
        "operator 'PyOp'",
    ),
    "an operator that there is not": (model([helper.make_node("Evil", ["x"], ["y"])]), "operator 'Evil'"),
    "no operator": (with_graph(lambda m: m.graph.node.add()), "a node has no operator"),
    "a function": (
        with_graph(lambda m: m.functions.append(helper.make_function("d", "f", [], [], [], []))),
        "functions",
    ),
    "training": (with_graph(lambda m: m.training_info.add()), "training information"),
    "a sparse tensor": (with_graph(lambda m: m.graph.sparse_initializer.add()), "sparse tensors"),
    "texts": (constant(helper.make_tensor("t", TensorProto.STRING, [1], [b"x"])), "of texts"),
    "a type that there is not": (constant(tensor(data_type=99)), "elements of type 99"),
    "two graphs": (None, "holds 2 graphs"),
    "no graph": (None, "holds 0 graphs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_onnx_file_that_no_target_writes(case: str, tmp_path: Path) -> None:
    made, message = REFUSED[case]
    data = b"" if made is None else made.SerializeToString()
    if case == "two graphs":
        data = model([]).SerializeToString() * 2
    file = tmp_path / "model.onnx"
    file.write_bytes(data)
    with pytest.raises(LatentcError, match=message):
        session_table.get("onnxruntime").open(file, "cpu", "fp32", None)


@pytest.mark.parametrize("wrong", ["-1", "1e3", "", "99999999999999999999", "0x10", "٣"])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_a_place_of_weights_that_is_no_number(key: str, wrong: str, tmp_path: Path) -> None:
    stored = tensor(data_location=TensorProto.EXTERNAL)
    for name, value in {"location": "w", "offset": "0", "length": "16", key: wrong}.items():
        stored.external_data.add(key=name, value=value)
    (tmp_path / "w").write_bytes(bytes(64))
    (tmp_path / "model.onnx").write_bytes(constant(stored).SerializeToString())
    with pytest.raises(LatentcError, match="no valid offset"):
        check_onnx(tmp_path / "model.onnx", ONNX)


@pytest.mark.parametrize(
    ("entries", "dims"),
    [
        ({"offset": "48"}, [5]),  # without a length: the tensor's own
        ({"offset": "60", "length": "4"}, [4]),  # a length that is less than the tensor's
        ({"offset": str(2**63), "length": str(2**63)}, [4]),  # whose sum is 0 in 64 bits
        ({}, [2**40, 2**40]),
        ({"length": "65"}, [1]),
    ],
)
def test_weights_outside_of_their_file(entries: dict[str, str], dims: list[int], tmp_path: Path) -> None:
    stored = tensor(data_location=TensorProto.EXTERNAL, dims=dims)
    for name, value in {"location": "w", **entries}.items():
        stored.external_data.add(key=name, value=value)
    (tmp_path / "w").write_bytes(bytes(64))
    for made in (constant(stored), with_graph(lambda m: m.graph.initializer.append(stored))):
        (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
        with pytest.raises(LatentcError, match=r"'w' is at bytes \d+ to \d+ of w, which has 64"):
            check_onnx(tmp_path / "model.onnx", ONNX)


def test_weights_in_a_form_that_nobody_looks_at(tmp_path: Path) -> None:
    """ONNX Runtime maps an operator's own form of weights from wherever such an entry says."""
    stored = tensor(data_location=TensorProto.EXTERNAL)
    for name, value in {
        "location": "w", "offset": "0", "length": "16", "prepacked_0": "MatMul0|99999999;64;0"
    }.items():  # fmt: skip
        stored.external_data.add(key=name, value=value)
    (tmp_path / "w").write_bytes(bytes(64))
    (tmp_path / "model.onnx").write_bytes(
        with_graph(lambda m: m.graph.initializer.append(stored)).SerializeToString()
    )
    with pytest.raises(LatentcError, match="external data of 'w' that says 'prepacked_0'"):
        check_onnx(tmp_path / "model.onnx", ONNX)


def test_a_shape_of_a_million_dimensions_takes_no_hours(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(constant(tensor(dims=[2**62] * 100_000, raw_data=b"")).SerializeToString())
    started = time.process_time()
    with pytest.raises(LatentcError, match="a shape has 100000 dimensions"):
        check_onnx(file, ONNX)
    assert time.process_time() - started < 5


def test_a_models_bytes_are_no_other_format(tmp_path: Path) -> None:
    """A producer's name puts "ORTM" where ONNX Runtime looks for its own format in bytes."""
    made = with_graph(lambda m: None)
    made.ir_version, made.producer_name = 10, "ORTM"
    made.opset_import[0].version = 20
    data = made.SerializeToString()
    assert data[4:8] == b"ORTM"
    file = tmp_path / "model.onnx"
    file.write_bytes(data)
    session = session_table.get("onnxruntime").open_part(data, file, "cpu", "fp32")
    assert list(session.outputs) == ["y"]
    session.close()


def test_a_damaged_onnx_file_is_an_error_and_no_traceback(written: Path) -> None:
    file = written / "damaged.onnx"
    data = (written / "model.onnx").read_bytes()
    rng = random.Random(3)
    refused = 0
    for trial in range(400):
        changed = bytearray(data)
        if trial % 2:
            del changed[rng.randrange(len(changed)) :]
        for _ in range(3):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        file.write_bytes(changed)
        try:
            check_onnx(file, ONNX)
        except LatentcError:
            refused += 1
    assert refused > 200


def test_a_small_onnx_file_does_not_grow_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these nodes has 2 bytes in the file, and some hundred as an object."""
    monkeypatch.setattr(onnx_structure, "MAX_FIELDS", 50_000)
    attributes = b"\x2a\x00" * 100_000
    node = b"\x22\x04Relu" + attributes

    def field(tag: bytes, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return tag + length + bytes([size]) + content

    for content in (field(b"\x0a", node), b"\x0a\x00" * 100_000, field(b"\x6a", bytes(1_000_000))):
        (tmp_path / "model.onnx").write_bytes(field(b"\x3a", content))
        tracemalloc.start()
        with pytest.raises(LatentcError, match="more than 50000 fields|no operator"):
            check_onnx(tmp_path / "model.onnx", ONNX)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4_000_000
    monkeypatch.setattr(onnx_structure, "MAX_FILE", 1000)
    with pytest.raises(LatentcError, match="at most 1000"):
        check_onnx(tmp_path / "model.onnx", ONNX)


@pytest.mark.parametrize("target", ["onnxruntime", "directml", "openvino"])
@pytest.mark.parametrize("name", ["model.ort", "model.pb", "model.onnx", "model.xml", "model.blob", "model"])
def test_another_suffix_would_take_another_parser(target: str, name: str, written: Path) -> None:
    if name.endswith(".xml" if target == "openvino" else ".onnx"):
        pytest.skip("its own")
    file = written / name
    if not file.exists():
        file.write_bytes((written / "model.onnx").read_bytes())
    with pytest.raises(LatentcError, match=r"is no \.(onnx|xml) file"):
        session_table.get(target).open(file, "cpu", "fp32", None)


# --- OpenVINO --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("openvino")
    target = targets.get("openvino")
    folder = tmp_path_factory.mktemp("ir")
    target.lower(Denoiser().model(), target.options(), folder, Context())
    check_openvino(folder / "openvino_model.xml", IR)
    return folder


def first(pattern: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        changed, count = re.subn(pattern, new, text, count=1, flags=re.DOTALL)
        assert count == 1
        return changed

    return change


BODY = "<body><layers></layers></body></layer>"

CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "an operator of an extension": (
        first(r'type="MatMul" version="opset1"', 'type="MatMul" version="extension"'),
        "'MatMul' of 'extension'",
    ),
    "an operator set that there is not": (first(r'version="opset\d+"', 'version="opset99"'), "'opset99'"),
    "a loop": (first(r'type="MatMul"', 'type="Loop"'), "'Loop'"),
    "an iterator": (first(r'type="MatMul"', 'type="TensorIterator"'), "'TensorIterator'"),
    "a state": (first(r'type="MatMul"', 'type="ReadValue"'), "'ReadValue'"),
    "a graph inside of a layer": (first("</layer>", BODY), "'body' in the layer"),
    "a layer inside of a layer": (
        first("<output>", '<output><layer type="Loop" version="opset1"/>'),
        "layers inside of others",
    ),
    "layers elsewhere": (first("</edges>", "</edges><x><layers/></x>"), "layers inside of others"),
    "something among the layers": (first("<layer ", "<lair "), "mismatched tag|the operator"),
    "a constant past the end": (first(r'offset="\d+"', 'offset="99999999"'), "outside of its"),
    "a constant before the start": (first(r'offset="\d+"', 'offset="-64"'), "outside of its"),
    "a constant whose end wraps around": (first(r'offset="\d+"', f'offset="{2**64 - 8}"'), "outside of its"),
    "a constant without a place": (first(r'offset="\d+"', ""), "outside of its"),
    "a constant less than its shape": (first(r'size="\d+"', 'size="1"'), "outside of its"),
    "a shape more than its constant": (
        first(r'(<data element_type="\w+" shape=")[^"]*"', r'\g<1>1000000000, 1000000000"'),
        "outside of its",
    ),
    "a shape of a hundred thousand dimensions": (
        first(r'(<data element_type="\w+" shape=")[^"]*"', rf'\g<1>{", ".join([str(2**62)] * 100_000)}"'),
        "outside of its",
    ),
    "a constant of texts": (
        first(r'data element_type="\w+"', 'data element_type="string"'),
        "outside of its",
    ),
    "a constant with two places": (
        first(r'(<data element_type="\w+" shape="[^"]*" offset="\d+" size="\d+" ?/>)', r"\1\1"),
        "outside of its",
    ),
    "a declaration": (first("<net", '<!DOCTYPE x [<!ENTITY a "b">]><net'), "declarations of XML"),
    "another root": (lambda text: f"<net2>{text.partition('?>')[2]}</net2>", "in the place of a network"),
    "a second root": (lambda text: text + "<net/>", "junk after document"),
    "an end that is missing": (lambda text: text[: len(text) // 2], "is not an OpenVINO model"),
    "another encoding": (lambda text: text.replace("\n", "\0", 1), "is not an OpenVINO model"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_an_ir_that_the_target_does_not_write(case: str, ir: Path, tmp_path: Path) -> None:
    change, message = CHANGES[case]
    text = (ir / "openvino_model.xml").read_text(encoding="utf-8")
    (tmp_path / "openvino_model.bin").write_bytes((ir / "openvino_model.bin").read_bytes())
    (tmp_path / "openvino_model.xml").write_text(change(text), encoding="utf-8")
    with pytest.raises(LatentcError, match=message):
        session_table.get("openvino").open(tmp_path / "openvino_model.xml", "cpu", "fp32", None)


def test_what_was_looked_at_is_kept_for_its_content_and_rules(
    ir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    walk = openvino_structure._Walk.walk
    monkeypatch.setattr(openvino_structure._Walk, "walk", lambda *a: looks.append(1) or walk(*a))
    file = ir / "openvino_model.xml"
    for expected in (1, 1):
        check_openvino(file, IR, tmp_path)
        assert len(looks) == expected
    monkeypatch.setattr(openvino_structure, "_RULES", 99)
    check_openvino(file, IR, tmp_path)
    check_openvino(file, IR, tmp_path / "nowhere")
    assert len(looks) == 3


def test_no_contract_names_an_operator_with_graphs_in_it() -> None:
    names: set[str] = set()
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and any("GRAPH" in a.type.name for a in schema.attributes.values()):
            names.add(schema.name)
    assert {"If", "Loop", "Scan"} <= names
    assert all(ONNX.refuses(domain, name) for name in names for domain in ("", "ai.onnx", "com.microsoft"))
