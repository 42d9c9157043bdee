"""Initializers become references to what is stored."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.errors import LatentcError
from compiler.export.bind import bind_weights
from targets.graph.weights import Cast, WeightRef
from tests.compiler.made import stored

FLOAT, HALF, INT = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT64


def model(**values: ir.DataType) -> ir.Model:
    made = [ir.Value(name=name, type=ir.TensorType(dtype)) for name, dtype in values.items()]
    return ir.Model(
        ir.Graph([], [], nodes=[], initializers=made, opset_imports={"": 21}, name="g"), ir_version=10
    )


def bound(values: dict[str, ir.DataType], weights, module=None) -> dict[str, ir.TensorProtocol]:
    made = model(**values)
    bind_weights(made, module or torch.nn.Module(), weights)
    return {name: value.const_value for name, value in made.graph.initializers.items()}


def test_stored_floats_of_any_width_are_weights_of_the_graphs_type():
    weights = {
        "a.weight": stored("a", 2, 3),
        "b": stored("b", 2, dtype=HALF),
        "c": stored("c", 2, dtype=ir.DataType.BFLOAT16),
        "d": stored("d", 2, dtype=ir.DataType.DOUBLE),
        "e": stored("e", 2, dtype=INT),
    }
    found = bound(
        {
            "module.a.weight": FLOAT,
            "module.b": FLOAT,
            "module.c": FLOAT,
            "module.d": FLOAT,
            "module.e": INT,
        },
        weights,
    )
    assert all(isinstance(ref, WeightRef) for ref in found.values())
    assert {name: (ref.source.key, ref.dtype, ref.transforms) for name, ref in found.items()} == {
        "module.a.weight": ("a", FLOAT, ()),
        "module.b": ("b", FLOAT, (Cast(FLOAT),)),
        "module.c": ("c", FLOAT, (Cast(FLOAT),)),
        "module.d": ("d", FLOAT, (Cast(FLOAT),)),
        "module.e": ("e", INT, ()),
    }
    assert found["module.a.weight"].name == "module.a.weight"


def test_tied_names_are_one_weight():
    shared = stored("shared", 4)
    found = bound({"module.a": FLOAT, "module.b": FLOAT}, {"a": shared, "b": shared})
    assert found["module.a"].identity == found["module.b"].identity


def test_a_computed_buffer_is_its_value():
    module = torch.nn.Module()
    module.register_buffer("table", torch.arange(4.0).reshape(2, 2).T)
    made = model(**{"module.table": FLOAT})
    mode = FakeTensorMode()
    fake = mode.from_tensor(torch.zeros(2, 2))
    made.graph.initializers["module.table"].const_value = TorchTensor(fake)
    bind_weights(made, module, {})
    array = made.graph.initializers["module.table"].const_value.numpy()
    np.testing.assert_array_equal(array, [[0, 2], [1, 3]])


def test_a_constant_of_the_graph_stays():
    made = model(constant=FLOAT)
    made.graph.initializers["constant"].const_value = ir.tensor(np.ones(2, np.float32), name="constant")
    bind_weights(made, torch.nn.Module(), {})
    assert made.graph.initializers["constant"].const_value.numpy().tolist() == [1, 1]


def test_what_is_stored_nowhere_is_named():
    with pytest.raises(LatentcError, match=r"stored nowhere: a, b, c, d, e\."):
        bound({f"module.{name}": FLOAT for name in "abcdef"}, {})
    module = torch.nn.Module()
    mode = FakeTensorMode()
    with mode:
        module.register_buffer("lost", torch.zeros(2))
    made = model(**{"module.lost": FLOAT})
    made.graph.initializers["module.lost"].const_value = TorchTensor(module.lost)
    with pytest.raises(LatentcError, match=r"stored nowhere: lost\."):
        bind_weights(made, module, {})
