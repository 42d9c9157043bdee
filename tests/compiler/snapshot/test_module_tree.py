"""The tree of modules."""

from __future__ import annotations

from compiler.snapshot.module_tree import tree
from compiler.snapshot.prints import Cost, GraphPrint, ModulePrint
from tests.compiler.snapshot.test_prints import graph

MODULES = {
    "": ModulePrint(ops={"Add": 1}, reads={"Add <- up.0, down.1.conv": 1}, cost=Cost(0, 0, 8)),
    "up.0": ModulePrint(ops={"MatMul": 2}, reads={"MatMul <- ^^mid": 1}, cost=Cost(50, 5, 10)),
    "mid": ModulePrint(
        ops={"Softmax": 1, "MatMul": 2}, patterns={"attention": 1}, reads={"MatMul <- ^down.1.conv": 2},
        cost=Cost(20, 0, 10),
    ),
    "mid.norm": ModulePrint(ops={"LayerNormalization axis=-1": 1}, reads={"LayerNormalization <- ^^down.1.conv": 1}),
    "down.1.conv": ModulePrint(ops={"Conv": 1}, reads={"Conv <- ^^0.conv": 1}, cost=Cost(20, 4, 10)),
    "down.0.conv": ModulePrint(ops={"Conv": 1}, reads={"Conv <- <sample>": 1}, cost=Cost(10, 3, 10)),
}  # fmt: skip


def made() -> GraphPrint:
    return graph(modules=MODULES)


def test_modules_come_in_the_order_in_which_they_run():
    assert [(level, b.path) for level, b in tree(made()).walk(1)] == [
        (0, ""),
        (1, "down.0"),
        (1, "down.1"),
        (1, "mid"),
        (1, "up.0"),
    ]


def test_a_branch_sums_what_is_inside_of_it():
    root = tree(made())
    assert root.cost == made().cost == Cost(100, 12, 48)
    assert root.ops == {"Add": 1, "MatMul": 4, "Softmax": 1, "LayerNormalization": 1, "Conv": 2}
    mid = next(b for _, b in root.walk(1) if b.path == "mid")
    assert (mid.patterns, mid.label, [b.path for b in mid.inner]) == ({"attention": 1}, "mid", ["mid.norm"])


def test_modules_that_read_from_one_another_are_listed_too():
    loop = {
        "a": ModulePrint(reads={"Add <- ^b": 1}, cost=Cost(1, 1, 1)),
        "b": ModulePrint(reads={"Add <- ^a": 1}, cost=Cost(1, 1, 1)),
    }
    assert [b.path for _, b in tree(graph(modules=loop)).walk(1)] == ["", "a", "b"]
