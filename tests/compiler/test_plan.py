"""What a plan counts."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx_ir as ir
import pytest

from artifacts.manifest import DimRange
from compiler.capture.capture import Capture
from compiler.capture.declared_sizes import SizeRange
from compiler.plan import bytes_by_type, make_plan, parameters
from tests.compiler.made import method, spec, stored

ONE = DimRange(min=1, max=1)


def captured(*methods, **weights) -> Capture:
    return Capture({}, methods, {}, weights, {}, SizeRange(ONE, ONE), ONE, ("unet: a note.",))


SHARED = stored("shared", 10, 4)
WEIGHTS = {"shared": SHARED, "tied": SHARED, "w": stored("w", 3, 5, dtype=ir.DataType.FLOAT16)}


def test_a_tied_weight_counts_once_and_an_unread_one_not_at_all():
    used = frozenset({"shared", "tied", "computed"})
    assert parameters(method(used=used), captured(unet=WEIGHTS)) == 40
    assert parameters(method(used=used | {"w"}), captured(unet=WEIGHTS)) == 55


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("fp16", 2), ("bf16", 2)])
def test_bytes_follow_the_precision_and_not_the_file(tmp_path, precision, width):
    encode = method(component="vae", folder="vae_encoder", method="encode", used=frozenset({"a"}))
    plan = make_plan(
        captured(method(used=frozenset(WEIGHTS)), encode, unet=WEIGHTS, vae={"a": stored("a", 7)}),
        precision,
        tmp_path / "not" / "there",
    )
    assert [
        (r.component, r.method, r.folder, r.precision, r.parameters, r.bytes) for r in plan.components
    ] == [
        ("unet", "forward", "unet", precision, 55, 55 * width),
        ("vae", "encode", "vae_encoder", precision, 7, 7 * width),
    ]
    assert plan.total_bytes == 62 * width
    assert plan.free_bytes > 0
    assert plan.notes == ("unet: a note.",)


def test_shapes_are_told_with_the_ranges_that_are_declared(tmp_path):
    made = method(
        inputs=(spec("x", "batch", 4, "height"), spec("t")),
        dims={"batch": DimRange(min=1, max=4)},
    )
    plan = make_plan(captured(made, unet={}), "fp16", tmp_path)
    assert plan.components[0].shapes == "x [batch 1..4, 4, height], t []"


def test_memory_grows_with_the_largest_weight_only(tmp_path):
    def peak(**weights) -> int:
        return make_plan(captured(unet=weights), "fp16", tmp_path).peak_memory

    nothing = peak()
    large = stored("large", 1000, 1000)
    assert peak(large=large) - nothing == peak(large=large, b=stored("b", 999, 1000)) - nothing
    assert peak(large=large) - nothing >= 4 * math.prod(large.shape)


def test_a_plan_is_plain_data(tmp_path):
    found = json.loads(json.dumps(make_plan(captured(method(), unet={}), "fp32", tmp_path).to_dict()))
    assert found["components"][0]["folder"] == "unet"


def test_bytes_by_type():
    values = []
    for name, array in {
        "a": np.zeros((2, 3), np.float16),
        "b": np.zeros(5, np.float16),
        "c": np.zeros(2, np.int64),
    }.items():
        values.append(ir.Value(name=name, const_value=ir.tensor(array, name=name)))
    values.append(ir.Value(name="d"))
    graph = ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 21})
    assert bytes_by_type(ir.Model(graph, ir_version=10)) == {"float16": 22, "int64": 16}
