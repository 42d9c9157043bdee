"""What is said of two snapshots, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from artifacts.errors import UsageError
from compiler.snapshot import report
from compiler.snapshot.diff import KINDS, allowed, diff
from compiler.snapshot.seeded_results import differs
from tests.compiler.snapshot.test_prints import graph, module, snapshot


def told(before, after):
    return [(c.kind, c.modules, c.text) for c in diff(before, after)]


def modules(**changed):
    return {**graph().modules, **{path.replace("_", "."): value for path, value in changed.items()}}


def test_equal_snapshots_have_no_difference():
    assert diff(snapshot(), snapshot()) == ()


def test_the_most_important_comes_first_and_costs_come_last():
    changed = module(
        patterns={},
        weights={"weight": "float32 [8, 9]", "^table": "int8 [4]"},
        cost=replace(module().cost, flops=13),
    )
    after = graph(modules=modules(blocks_1=changed), outputs=("other float32 [1]",), digest="0" * 64)
    kinds = [kind for kind, _, _ in told(snapshot(), snapshot(after))]
    assert kinds == sorted(kinds, key=list(KINDS).index)
    assert kinds[0] == "signature" and kinds[-1] == "cost"
    text = "\n".join(report.lines(diff(snapshot(), snapshot(after))))
    assert "unet: blocks.1: group norm + SiLU pattern lost: 3 -> 2 in the graph; weight weight: " in text
    assert "FLOPs +10 % (30 -> 33)" in text


def test_the_same_change_of_many_modules_is_told_once():
    changed = module(ops={"Add": 2, "LayerNormalization axis=-1 epsilon=1e-06": 1}, digest="1" * 12)
    after = graph(modules=modules(blocks_0=changed, blocks_1=changed), digest="0" * 64)
    assert told(snapshot(), snapshot(after)) == [
        ("attributes", ("blocks.0", "blocks.1"), "LayerNormalization epsilon=1e-05 -> epsilon=1e-06")
    ]
    assert list(report.lines(diff(snapshot(), snapshot(after)))) == [
        "unet: blocks.{0,1} (2 modules): LayerNormalization epsilon=1e-05 -> epsilon=1e-06"
    ]


def test_the_same_change_of_two_forms_is_told_once():
    both = snapshot(graph(), graph(form="fp16 weights"))
    changed = replace(graph(), inputs=("x int64 []",))
    after = snapshot(changed, replace(changed, form="fp16 weights"))
    assert {c.forms for c in diff(both, after)} == {("fp16 weights", "fp32")}
    assert "[" not in "".join(report.lines(diff(snapshot(), snapshot(changed)))).replace("[]", "").replace(
        "[batch", ""
    )


def test_graphs_come_and_go():
    assert told(snapshot(), snapshot(graph(name="vae"))) == [
        ("graphs", (), "the graph is gone"),
        ("graphs", (), "the graph is new"),
    ]


def test_modules_come_and_go():
    fewer = {path: found for path, found in graph().modules.items() if path != "blocks.1"}
    (pattern, gone) = [
        row for row in told(snapshot(), snapshot(graph(modules=fewer, digest="0" * 64))) if row[1]
    ]
    assert pattern[0] == "patterns"
    assert gone == ("ops", ("blocks.1",), "the module is gone (Add, LayerNormalization)")


def test_wiring_that_no_module_shows_is_told_all_the_same():
    assert [row[0] for row in told(snapshot(), snapshot(graph(digest="0" * 64)))] == ["wiring"]


def test_versions_and_options_are_metadata():
    after = snapshot(made_by="torch 3", options=())
    assert [row[0] for row in told(snapshot(), after)] == ["metadata", "metadata"]
    assert allowed(diff(snapshot(), after), ["metadata"]) == ()


def test_only_harmless_classes_can_be_allowed():
    with pytest.raises(UsageError, match="'casts' cannot be allowed"):
        allowed((), ["casts"])


def test_numbers_of_another_machine_are_the_same_and_of_another_graph_are_not():
    line = "y [2, 8] mean=0.1 spread=1 place=0.2"
    assert not differs(line, "y [2, 8] mean=0.1004 spread=1.0003 place=0.2")
    assert differs(line, "y [2, 8] mean=0.1 spread=1 place=0.21")
    assert differs(line, "y [2, 9] mean=0.1 spread=1 place=0.2")
    assert differs(line, "y [2, 8] not finite")
    assert [c.kind for c in diff(snapshot(graph(numeric=(line,))), snapshot(graph(numeric=("y [2, 8] not finite",))))
            ] == ["numeric"]  # fmt: skip


def test_annotations_are_commands_of_one_line():
    changes = diff(snapshot(), snapshot(graph(digest="0" * 64)))
    assert report.as_github(changes, 0, "a,b:c.graph") == (
        "::error file=a%2Cb%3Ac.graph,title=graph changed::"
        "unet: the same operators in every module, wired differently"
    )
    assert report.as_github((), 0, "x.graph") == "::notice file=x.graph,title=graph unchanged::no change"
    after = snapshot(*(graph(name=f"g{i}") for i in range(20)))
    assert len(report.as_github(diff(snapshot(), after), 0, "x").splitlines()) == 10


def test_data_for_scripts():
    changes = diff(snapshot(), snapshot(made_by="torch 3"))
    assert report.as_data((), changes)["changed"] is False
    assert report.as_data(changes, ())["changes"][0]["class"] == "metadata"
