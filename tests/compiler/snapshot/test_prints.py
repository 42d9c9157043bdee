"""The text of a snapshot: read back whole, refused when damaged."""

from __future__ import annotations

import pytest

from artifacts.errors import LatentcError
from compiler.snapshot.prints import HEAD, Cost, GraphPrint, ModulePrint, Snapshot, parse


def module(**changes: object) -> ModulePrint:
    fields: dict[str, object] = {
        "ops": {"Add": 2, "LayerNormalization axis=-1 epsilon=1e-05": 1},
        "patterns": {"group norm + SiLU": 1},
        "weights": {"weight": "float32 [8, 8] transposed 1,0", "^table": "int8 [4]"},
        "reads": {"Add <- ^^other, _": 1},
        "cost": Cost(10, 68, 32, 2),
        "digest": "0123456789ab",
    }
    return ModulePrint(**(fields | changes))  # type: ignore[arg-type]


def graph(**changes: object) -> GraphPrint:
    fields: dict[str, object] = {
        "name": "unet",
        "form": "fp32",
        "source": "UNet2DConditionModel.forward",
        "opset": {"": 21, "com.microsoft": 1},
        "inputs": ("sample float32 [batch, 4, 64, 64]", "timestep int64 []"),
        "outputs": ("out_sample float32 [batch, 4, 64, 64]",),
        "sizes": {"batch": 1},
        "modules": {"": module(weights={}), "blocks.0": module(), "blocks.1": module()},
        "digest": "f" * 64,
        "numeric": ("out_sample [1, 4, 64, 64] mean=0.1 spread=1 place=0.2",),
        "targets": (),
    }
    return GraphPrint(**(fields | changes))  # type: ignore[arg-type]


def snapshot(*graphs: GraphPrint, **changes: object) -> Snapshot:
    fields: dict[str, object] = {"model": "Pipeline", "made_by": "torch 2", "options": ("size 8..8 8..8",)}
    return Snapshot(graphs=graphs or (graph(),), **(fields | changes))  # type: ignore[arg-type]


def test_a_snapshot_reads_back_as_it_was():
    both = snapshot(graph(), graph(form="fp16 weights+cse", targets=("a", "b"), numeric=(), sizes={}))
    found = parse(both.text(), "x.graph")
    assert {g.key: g for g in found.graphs} == {g.key: g for g in both.graphs}
    assert (found.model, found.made_by, found.options) == (both.model, both.made_by, both.options)
    assert found.text() == both.text()


def test_equal_modules_are_written_once():
    text = snapshot().text()
    assert "module blocks.{0,1}\n" in text
    assert text.count("LayerNormalization axis=-1 epsilon=1e-05 x1") == 2  # theirs, and the root's


def test_totals_are_of_all_modules():
    assert graph().cost == Cost(30, 204, 96, 6)
    assert graph().patterns == {"group norm + SiLU": 3}
    assert graph().op_types == {"Add": 6, "LayerNormalization": 3}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("op Add x2", "op Add two"),
        ("cost 10 FLOPs", "cost ten FLOPs"),
        ("opset onnx 21", "opset onnx"),
        ("source UNet", "sauce UNet"),
        ("  pattern", "  petunia"),
        ("model Pipeline", "modal Pipeline"),
    ],
)
def test_a_damaged_line_is_named(old, new):
    text = snapshot().text()
    assert old in text
    number = next(i for i, line in enumerate(text.splitlines(), 1) if old in line)
    with pytest.raises(LatentcError, match=rf"x.graph, line {number}, is not a line"):
        parse(text.replace(old, new, 1), "x.graph")


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(LatentcError, match=HEAD):
        parse("latentc graph snapshot 99\n", "x.graph")


def cut(text: str) -> list[str]:
    """Where a text is cut off so that nobody sees it."""
    unseen = []
    for end in range(len(HEAD) + 1, len(text)):
        try:
            parse(text[:end], "x.graph")
        except LatentcError:
            continue
        unseen.append(text[:end])
    return unseen


def test_a_file_that_is_cut_off_is_told_as_such_wherever_that_is():
    text = snapshot(graph(), graph(form="fp16 weights", numeric=())).text()
    assert "\ngraphs 2\n" in text and cut(text) == []
    for end in (200, len(text) - 1):
        with pytest.raises(
            LatentcError, match="x.graph is cut off or damaged: its end is not whole"
        ) as caught:
            parse(text[:end], "x.graph")
        assert "latentc graph snapshot MODEL -o FILE" in caught.value.hint
    with pytest.raises(LatentcError, match=r"the list of graphs \(1 of 2\) is not whole"):
        parse(text[: text.index("\n\ngraph unet (fp32)") + 1], "x.graph")


def test_files_of_earlier_versions_are_read_and_held_to_their_totals():
    both = snapshot(graph(), graph(form="fp16 weights", numeric=()))
    old = both.text().replace("graphs 2\n", "")
    assert parse(old, "x.graph").text() == both.text()
    whole_graphs = [
        old[: old.index("\n\ngraph unet (fp32)") + 1]
    ]  # Of these alone, an old file does not tell.
    assert cut(old) == whole_graphs


@pytest.mark.parametrize(
    "gone", ["  op Add x2\n", "total 6 Add\n", "cost 10", "digest ffff", "module blocks.{0,1}\n"]
)
def test_a_module_that_is_not_what_the_totals_say_is_damage(gone):
    text = snapshot().text()
    line = next(line for line in text.splitlines(keepends=True) if gone.strip() in line)
    with pytest.raises(LatentcError, match=r"damaged: the graph unet \(fp32\) is not whole"):
        parse(text.replace(line, "", 1), "x.graph")
