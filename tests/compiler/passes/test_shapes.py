import onnx_ir as ir
import pytest

from compiler.passes.shapes import Shapes, dims
from tests.compiler.passes.graphs import parse

SPLIT = """(float[B,12,8] x, float[B,T,8] y) => (float[B,4,8] a)
    <int64[2] lengths = {4, 8}> {
    a, b = Split <axis = 1> (x, lengths)
    c, d = Split <axis = -1, num_outputs = 2> (x)
    e, f = Split <axis = 1, num_outputs = 2> (y)
    g, h, i = Split <axis = -1, num_outputs = 3> (x)
}"""


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ("ab", [("B", 4, 8), ("B", 8, 8)]),
        ("cd", [("B", 12, 4), ("B", 12, 4)]),
        ("ef", [("B", None, 8), ("B", None, 8)]),
        ("ghi", [("B", 12, None)] * 3),
    ],
)
def test_parts_of_a_split(outputs, expected):
    model = parse(SPLIT)
    shapes = Shapes()
    for node in model.graph:
        shapes.visit(node)
    values = {v.name: v for node in model.graph for v in node.outputs}
    assert [dims(values[name]) for name in outputs] == expected
    assert {values[name].dtype for name in outputs} == {ir.DataType.FLOAT}
