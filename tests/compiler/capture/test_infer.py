"""From recorded calls to graphs: axes that vary, numbers that change, and what is one graph."""

from __future__ import annotations

import torch

from artifacts.call_trees import ConstLeaf, SizeLeaf, TensorLeaf
from artifacts.manifest import DimRange
from compiler.capture.arguments import Point
from compiler.capture.infer import methods
from compiler.capture.recorder import Call, Spec

POINTS = (
    Point(2, 16, 24, words=4),
    Point(3, 8, 32, words=9),
    Point(4, 32, 32, words=14),
    Point(1, 8, 8, words=2, guided=False),
    Point(1, 8, 8, words=2),
)


def call(point: int, shape: tuple[int, ...], *, component="unet", method="forward", out=None, **more) -> Call:
    numbers = more.pop("numbers", {})
    return Call(
        component=component,
        method=method,
        arguments={"x": TensorLeaf(name="x"), **{name: ConstLeaf(value=v) for name, v in numbers.items()}},
        inputs={"x": Spec(torch.float32, shape)},
        numbers={(name,): value for name, value in numbers.items()},
        result=TensorLeaf(name="out"),
        outputs={"out": Spec(torch.float32, shape if out is None else out)},
        point=point,
        values=more.pop("values", {}),
        used=frozenset(more.pop("used", ())),
    )


def test_axes_are_called_by_what_they_follow():
    calls = [
        call(i, (p.batch * (2 if p.guided else 1), 4, p.height // 4, p.width // 4, p.words + 2))
        for i, p in enumerate(POINTS)
    ]
    (found,) = methods(calls, POINTS)
    assert found.inputs[0].shape == ("batch", 4, "height", "width", "sequence")
    assert found.outputs[0].shape == found.inputs[0].shape  # sizes that vary alike share a name
    assert found.dims == {
        "batch": DimRange(min=1, max=8),
        "height": DimRange(min=2, max=8),
        "width": DimRange(min=2, max=8),
    }
    assert found.shapes[0] == {"batch": 4, "height": 4, "width": 6, "sequence": 6}
    assert len(found.shapes) == 5


def test_tokens_follow_the_area_and_another_batch_has_a_name_of_its_own():
    calls = [call(i, (p.batch, p.height * p.width // 64), out=(p.batch * 2,)) for i, p in enumerate(POINTS)]
    (found,) = methods(calls, POINTS)
    assert found.inputs[0].shape == ("batch", "tokens")
    assert found.outputs[0].shape == ("batch_2",)


def test_one_size_has_no_symbols():
    (found,) = methods([call(0, (2, 4)), call(0, (2, 4))], POINTS)
    assert found.inputs[0].shape == (2, 4)
    assert found.dims == {} and found.shapes == ({},)


def test_the_example_has_as_few_ones_as_can_be():
    (found,) = methods([call(3, (1, 2)), call(4, (2, 2)), call(0, (4, 4))], POINTS)
    assert 1 not in found.shapes[0].values()
    assert {tuple(row.values()) for row in found.shapes} == {(1, 2), (2, 2), (4, 4)}


def test_numbers_that_change_from_step_to_step_are_inputs():
    calls = [call(0, (2, 4), numbers={"t": step}) for step in (999, 500)]
    (found,) = methods(calls, POINTS)
    assert [(s.name, s.dtype, s.shape) for s in found.inputs] == [
        ("x", "float32", (2, 4)),
        ("t", "int64", ()),
    ]
    assert found.arguments["t"] == TensorLeaf(name="t", number=True)
    assert found.fixed == ()
    assert found.values[0]["t"].item() in (999, 500)


def test_one_number_with_a_fraction_makes_the_input_a_float():
    (found,) = methods([call(0, (2, 4), numbers={"t": n}) for n in (1, 0.5)], POINTS)
    assert found.inputs[1].dtype == "float32"


def test_a_number_that_never_changes_stays_a_constant():
    (found,) = methods([call(i, (p.batch, 4), numbers={"s": 0.5}) for i, p in enumerate(POINTS)], POINTS)
    assert found.arguments["s"] == ConstLeaf(value=0.5)
    assert [s.name for s in found.inputs] == ["x"]


def test_whole_numbers_that_follow_the_size_fix_it():
    calls = [
        call(
            i,
            (p.batch, p.height // 4),
            numbers={"height": p.height},
            values={"x": torch.full((1,), float(i))},
        )
        for i, p in enumerate(POINTS)
    ]
    (found,) = methods(calls, POINTS)
    assert found.fixed == ("height",)
    assert found.arguments["height"] == ConstLeaf(value=16)
    assert found.inputs[0].shape == (2, 4)  # the first point's, the only one left


def test_whole_numbers_that_are_sizes_of_an_input_fix_nothing():
    def calls(**others: int) -> list[Call]:
        return [
            call(i, (p.batch, p.height), numbers={"rows": p.batch, "height": p.height} | others)
            for i, p in enumerate(POINTS)
        ]

    (graph,) = methods(calls(channels=8), POINTS)
    assert graph.fixed == ()
    assert graph.arguments["rows"] == SizeLeaf(name="x", axis=0)
    assert graph.arguments["height"] == SizeLeaf(name="x", axis=1)
    assert graph.arguments["channels"] == ConstLeaf(value=8)
    assert graph.inputs[0].shape == ("batch", "height")


def test_what_is_called_in_another_way_is_another_graph():
    calls = [
        call(0, (2, 4), component="text_encoder"),
        call(0, (2, 4, 8)),
        call(0, (2, 4), component="vae", method="encode"),
        call(0, (2, 4), component="vae", method="decode"),
        call(0, (2, 4), component="vae", method="tiled"),
        call(0, (2, 4)),
        call(1, (3, 4, 8), numbers={}),
    ]
    found = methods(calls, POINTS)
    assert [m.folder for m in found] == [
        "text_encoder",
        "unet",
        "vae_encoder",
        "vae_decoder",
        "vae_tiled",
        "unet_2",
    ]
    assert [len(m.inputs[0].shape) for m in found] == [2, 3, 2, 2, 2, 2]


def test_a_graph_uses_what_any_of_its_calls_used():
    (found,) = methods([call(0, (2, 4), used={"a"}), call(1, (3, 4), used={"b"})], POINTS)
    assert found.used == {"a", "b"}


def test_points_off_the_declared_ranges_show_what_varies_and_declare_nothing():
    points = (Point(1, 8, 8), Point(2, 8, 8, extra=True), Point(3, 8, 8, extra=True))
    (found,) = methods([call(i, (p.batch, 4)) for i, p in enumerate(points)], points)
    assert found.inputs[0].shape == ("batch", 4)
    assert found.dims == {"batch": DimRange(min=1, max=1)}
    assert found.shapes[0] == {"batch": 2}


def test_what_varies_while_the_batch_does_not_is_no_batch() -> None:
    points = [Point(1, 16, 16, words=words) for words in (4, 9, 14)]
    (found,) = methods([call(i, (p.words // 4, 4)) for i, p in enumerate(points)], points)
    assert found.inputs[0].shape == ("sequence", 4) and found.dims == {}


def test_a_text_shorter_than_four_batches_elsewhere_is_no_batch() -> None:
    points = [Point(1, 16, 16, words=4), Point(2, 16, 16, words=9), Point(1, 16, 16, words=14, guided=True)]
    (graph,) = methods([call(i, (length, 4)) for i, length in enumerate((6, 8, 16))], points)
    assert "batch" not in graph.inputs[0].shape


def test_a_text_that_is_longer_where_guidance_doubles_the_rows_is_no_batch() -> None:
    points = [Point(1, 16, 16, words=14), Point(1, 16, 16, words=2, guided=False)]
    (graph,) = methods([call(i, (length, 4)) for i, length in enumerate((31, 10))], points)
    assert graph.inputs[0].shape == ("sequence", 4) and graph.dims == {}
