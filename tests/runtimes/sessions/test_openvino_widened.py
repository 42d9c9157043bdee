"""Weights of convolutions that OpenVINO is given widened: the same results, of a file that holds few other bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.temporary import PREFIX
from runtimes.parts_session import weights_of_cuts
from runtimes.sessions import openvino_widened
from runtimes.sessions.openvino import SESSION
from runtimes.sessions.openvino_format import IR


def written(folder: Path, quantized_activations: bool = False) -> Path:
    """A convolution of 8-bit weights, one of 4-bit weights in groups, and a product of 8-bit weights, one after the
    other."""
    ov = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    random = np.random.default_rng(1)

    def stored(shape: tuple[int, ...], kind: str) -> Any:
        values = random.integers(-8, 8, shape).astype(np.int8)
        scales = random.uniform(0.01, 0.02, (shape[0], *(1 for _ in shape[1:]))).astype(np.float16)
        if kind == "i4":
            packed = (values.reshape(-1, 2)[:, 0] & 15) | (values.reshape(-1, 2)[:, 1] << 4)
            constant = ov.op.Constant(
                ov.Tensor(packed.astype(np.uint8), ov.Shape(list(shape)), ov.Type.i4), shared_memory=False
            )
        else:
            constant = ops.constant(values)
        return ops.multiply(ops.convert(constant, "f32"), ops.convert(ops.constant(scales), "f32"))

    x = ops.parameter([-1, 16, -1, -1], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    value = x
    if quantized_activations:
        bounds = [ops.constant(np.float32(bound)) for bound in (-4, 4, -4, 4)]
        value = ops.fake_quantize(value, *bounds, 256)
    ends = {"strides": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1], "dilations": [1, 1]}
    value = ops.relu(ops.convolution(value, stored((32, 16, 3, 3), "i8"), *ends.values()))
    groups = ops.reshape(stored((32, 9, 32), "i4"), [32, 32, 3, 3], False)
    value = ops.relu(ops.convolution(value, groups, *ends.values()))
    value = ops.matmul(ops.transpose(value, [0, 2, 3, 1]), stored((64, 32), "i8"), False, True)
    value.output(0).get_tensor().set_names({"y"})
    model = ov.Model([value], [x], "graph")
    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name("x" if node is x else f"node{number}")
    model.get_parameters()[0].set_friendly_name("x")
    model.get_results()[0].set_friendly_name("y")
    folder.mkdir()
    ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    return folder / "openvino_model.xml"


def computes() -> tuple[str, ...]:
    return next(device.computes for device in SESSION.devices() if device.name == "cpu")


def run(file: Path, compute: str, cache: Path | None = None) -> np.ndarray:
    session = SESSION.open(file, "cpu", compute, cache)
    x = np.random.default_rng(2).standard_normal((1, 16, 9, 7)).astype(np.float32)
    try:
        (result,) = session.run({"x": x}).values()
    finally:
        session.close()
    return result


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_results_are_the_same_and_convolutions_alone_are_widened(
    compute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "unet")
    if compute not in computes():
        pytest.skip("this processor has no bf16")
    cache = tmp_path / "cache"
    cache.mkdir()
    result = run(file, compute, cache)
    (stored,) = cache.rglob("openvino_model.xml")
    kind = {"fp32": "float32", "bf16": "bfloat16"}[compute]
    counts = IR.contents(stored).constants
    assert counts[kind] >= 32 * 16 * 9 + 32 * 32 * 9 and counts["int8"] == 64 * 32 and "int4" not in counts
    weights = stored.with_suffix(".bin")
    before = weights.stat().st_mtime_ns
    np.testing.assert_array_equal(run(file, compute, cache), result)
    assert weights.stat().st_mtime_ns == before, "it was written again"
    monkeypatch.setattr("runtimes.sessions.openvino.widened", lambda core, model_file, *rest: model_file)
    np.testing.assert_array_equal(run(file, compute), result)


def test_parts_are_opened_of_the_widened_file(tmp_path: Path) -> None:
    file = written(tmp_path / "unet")
    opened = SESSION.file_to_open(file, "cpu", "fp32", tmp_path)
    assert opened != file and opened.parent.name == "unet"
    structure, own = IR.structure(opened), IR.structure(file)
    assert [node.kind for node in structure.nodes] == [node.kind for node in own.nodes]
    assert structure.weight_bytes > 3 * own.weight_bytes
    told = SESSION.structure_to_open(file, "cpu", "fp32")
    assert told.nodes == own.nodes and weights_of_cuts(told) == weights_of_cuts(structure)
    # What constants are computed of counts once.
    assert 0.9 * own.weight_bytes < file.with_suffix(".bin").stat().st_size < 1.1 * own.weight_bytes
    part = IR.extract(opened, structure.inputs, structure.outputs)
    session = SESSION.open_part(part, opened, "cpu", "fp32")
    x = np.ones((1, 16, 4, 4), np.float32)
    whole = SESSION.open(file, "cpu", "fp32", None)
    np.testing.assert_array_equal(
        next(iter(session.run({"x": x}).values())), next(iter(whole.run({"x": x}).values()))
    )
    session.close()
    whole.close()


def test_where_activations_are_rounded_weights_stay_in_their_bits(tmp_path: Path) -> None:
    file = written(tmp_path / "unet", quantized_activations=True)
    assert SESSION.file_to_open(file, "cpu", "fp32", tmp_path) == file


def test_without_a_cache_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "unet")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = SESSION.open(file, "cpu", "fp32", None)
    assert [*tmp_path.glob(f"{PREFIX}*/*/unet/openvino_model.bin")]
    session.close()
    assert not [*tmp_path.glob(f"{PREFIX}*")]


def test_a_disk_that_takes_no_more_costs_memory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "unet")
    expected = run(file, "fp32")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(openvino_widened, "_append", full)
    np.testing.assert_array_equal(run(file, "fp32", cache), expected)
    assert not [*cache.rglob("openvino_model.*")]
