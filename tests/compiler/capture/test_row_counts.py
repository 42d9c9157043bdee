"""Axes that count rows, and a graph for each number of them."""

from __future__ import annotations

from dataclasses import replace

from artifacts.manifest import DimRange
from compiler.capture.arguments import Point
from compiler.capture.infer import methods
from compiler.capture.row_counts import by_rows, counts_rows
from tests.compiler.capture.test_infer import call

POINTS = (
    Point(2, 16, 24, words=4, extra=True, frames=5),
    Point(3, 8, 32, words=9, extra=True, frames=5),
    Point(1, 32, 32, words=14, frames=5),
    Point(1, 8, 8, words=2, guided=False, frames=5),
)
SAME = tuple(replace(point, batch=1) for point in POINTS)


def rows(point: Point) -> int:
    return point.batch * (2 if point.guided else 1)


def test_rows_of_two_stages_are_counted_and_lengths_and_sizes_are_not():
    twice = [*POINTS, *POINTS]
    stages = [rows(p) for p in POINTS] + [rows(p) * p.frames for p in POINTS]
    assert counts_rows(stages, twice)
    assert not counts_rows([p.words + 2 for p in POINTS], POINTS)
    assert not counts_rows([p.words + 2 for p in SAME], SAME)
    assert not counts_rows([p.height * rows(p) for p in POINTS], POINTS)
    assert not counts_rows([*stages[:-1], stages[-1] + 1, stages[-1]], [*twice, twice[-1]])


def test_rows_are_counted_whatever_range_of_frames_is_declared():
    moving = [replace(point, frames=2 + index) for index, point in enumerate(POINTS)]
    assert counts_rows([rows(p) * p.frames for p in moving], moving)


def test_what_grows_with_every_step_is_no_count_of_rows():
    steps = list(range(1, 7))
    assert not counts_rows(steps, [SAME[2]] * len(steps))
    assert counts_rows(steps[:4], [SAME[2]] * 4)


def test_a_method_names_the_dimensions_that_count_rows():
    calls = [call(i, (rows(p), p.words), out=(rows(p), p.height)) for i, p in enumerate(POINTS)]
    (graph,) = methods(calls, POINTS)
    assert graph.inputs[0].shape == ("batch", "sequence") and graph.rows == {"batch"}


def test_a_method_that_is_held_has_a_graph_for_each_number_of_rows():
    def stages(component: str) -> list:
        return [
            call(i, (rows(p) * many, p.words, p.height // 4), component=component)
            for many in (1, 5)
            for i, p in enumerate(SAME)
        ]

    calls = [*stages("unet"), *stages("vae")]
    assert [graph.folder for graph in methods(calls, SAME)] == ["unet", "vae"]
    graphs = methods(calls, SAME, {("unet", "forward")})
    assert [(graph.folder, graph.inputs[0].shape[0]) for graph in graphs] == [
        ("unet", 2),
        ("unet_2", 1),
        ("unet_3", 10),
        ("unet_4", 5),
        ("vae", "sequence"),
    ]
    whole = graphs[0]
    assert whole.inputs[0].shape == (2, "sequence", "height") and not whole.rows
    assert whole.dims == {"height": DimRange(min=8, max=8)}
    assert [row["sequence"] for row in whole.shapes] == [4, 9, 14]


def test_calls_of_one_number_of_rows_are_one_graph():
    calls = [call(i, (2, p.words)) for i, p in enumerate(SAME[:3])]
    assert by_rows(calls, SAME) == [calls]
