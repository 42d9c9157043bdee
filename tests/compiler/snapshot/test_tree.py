"""The tree of modules, and the picture of it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from compiler.snapshot.draw import KINDS, svg
from compiler.snapshot.prints import Cost, GraphPrint, ModulePrint
from compiler.snapshot.tree import tree
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


def test_modules_that_read_from_one_another_are_drawn_too():
    loop = {
        "a": ModulePrint(reads={"Add <- ^b": 1}, cost=Cost(1, 1, 1)),
        "b": ModulePrint(reads={"Add <- ^a": 1}, cost=Cost(1, 1, 1)),
    }
    assert [b.path for _, b in tree(graph(modules=loop)).walk(1)] == ["", "a", "b"]


def test_the_picture_is_xml_and_as_wide_as_the_costs():
    picture = svg(made())
    root = ET.fromstring(picture)
    boxes: dict[str, float] = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        title = group.findtext("{http://www.w3.org/2000/svg}title", "").splitlines()[0]
        rect = group.find("{http://www.w3.org/2000/svg}rect")
        assert rect is not None
        boxes.setdefault(title, float(rect.get("width", "0")))  # the first row: FLOPs
    assert boxes["up.0"] / boxes["down.0"] == pytest.approx(5, rel=0.05)
    for kind in ("attention", "linear", "convolution"):
        assert picture.count(KINDS[kind]) >= 2  # in the picture and in its legend


def test_names_that_are_markup_stay_text():
    picture = svg(graph(name="<b>&", modules=MODULES))
    assert "<b>" not in picture
    ET.fromstring(picture)
