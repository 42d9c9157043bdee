import onnx_ir as ir
import pytest

from targets.graph.dims import dims
from targets.graph.shapes import Shapes
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


# How transformers asks for each token's place in a mask: by numbers that shape arithmetic counts.
MASK = """(bool[B,S] mask) => (bool[B,1,1,S] y)
    <int64 zero = {0}, int64 one = {1}, int64[3] after = {1, 2, 3}, int64[3] before = {0, 1, 2}, int64[1] last = {-1}> {
    size = Shape<start=0, end=1>(mask)
    batch = Squeeze(size)
    rows = Range(zero, batch, one)
    length = Shape<start=1, end=2>(mask)
    tokens = Squeeze(length)
    columns = Range(zero, tokens, one)
    some = Range(one, tokens, one)
    r = Unsqueeze(rows, after)
    c = Unsqueeze(columns, before)
    wide = Max(r, c)
    whole = Shape(wide)
    r_all = Expand(r, whole)
    c_all = Expand(c, whole)
    r_last = Unsqueeze(r_all, last)
    c_last = Unsqueeze(c_all, last)
    index = Concat<axis=-1>(r_last, c_last)
    y = GatherND(mask, index)
}"""


def test_ranges_and_what_is_gathered_by_them():
    model = parse(MASK)
    for value in model.graph.outputs:
        value.shape = None
    shapes = Shapes()
    for node in model.graph:
        shapes.visit(node)
    values = {v.name: dims(v) for node in model.graph for v in node.outputs}
    assert (values["rows"], values["columns"], values["some"]) == (("B",), ("S",), (None,))
    assert values["index"] == ("B", 1, 1, "S", 2)
    assert values["y"] == ("B", 1, 1, "S")
