"""Axes whose size is a number of rows: so many for each picture of a call, and a graph for each such number.

A module's code may make a Python number of how many rows it is given (`[0] * (batch // 2)`). Its graph is right for
that number alone. Where a call of the pipeline asks for a few such numbers, whatever its prompt, each has a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from compiler.capture.arguments import Point
from compiler.capture.recorder import Call

MOST = 4
"""Numbers of rows for which a method has graphs, each with all its weights: stages of a call, not its steps."""


def counts_rows(sizes: Sequence[int], points: Sequence[Point]) -> bool:
    """Whether an axis has its sizes by the batch, the frames and the guidance alone.

    Args:
        sizes: of the axis, one for each recorded call.
        points: where the pipeline was run, one for each recorded call.
    """
    declared = {size for size, point in zip(sizes, points, strict=True) if not point.extra}
    if len(declared) > MOST:
        return False
    shares: dict[tuple[bool, bool, int], dict[Point, set[Fraction]]] = {}
    for size, point in zip(sizes, points, strict=True):
        alike = shares.setdefault((point.guided, point.images_per_prompt > 1, point.frames), {})
        alike.setdefault(point, set()).add(Fraction(size, point.batch))
    return all(len(set(map(frozenset, alike.values()))) == 1 for alike in shares.values())


def by_rows(calls: Sequence[Call], points: Sequence[Point]) -> list[list[Call]]:
    """The calls of one form, by the sizes of the axes that count rows; in recorded order.

    Args:
        points: where the pipeline was run; `Call.point` is an index.
    """
    at = [points[call.point] for call in calls]
    varying: list[list[int]] = []
    for tensors in ([call.inputs for call in calls], [call.outputs for call in calls]):
        for name, spec in tensors[0].items():
            for axis in range(len(spec.shape)):
                sizes = [by_name[name].shape[axis] for by_name in tensors]
                if len(set(sizes)) > 1 and counts_rows(sizes, at):
                    varying.append(sizes)
    groups: dict[tuple[int, ...], list[Call]] = {}
    for index, call in enumerate(calls):
        groups.setdefault(tuple(sizes[index] for sizes in varying), []).append(call)
    return list(groups.values())
