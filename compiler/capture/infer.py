"""From recorded calls to graphs: which calls are one graph, which axes are symbolic, and what they are called."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from artifacts.call_trees import AnyLeaf, MappingNode, SizeLeaf, Tree
from artifacts.errors import LatentcError
from artifacts.manifest import DimRange, TensorSpec
from compiler.capture import trees
from compiler.capture.arguments import Point
from compiler.capture.recorder import Call, Spec
from compiler.capture.row_counts import by_rows, counts_rows
from runtimes.settings import Settings

FOLDERS: dict[str, str] = {
    # Method -> folder, as diffusers' ecosystem names the parts of a pipeline on disk.
    "forward": "{component}",
    "encode": "{component}_encoder",
    "decode": "{component}_decoder",
}

_DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.uint8: "uint8",
    torch.bool: "bool",
}


@dataclass(frozen=True)
class Method:
    """One graph to export: a component, one of its methods, and one way of calling it.

    Attributes:
        component, method, folder: whose it is and where it goes. A method of a submodule has the submodule's path
            before it ("visual.blocks.0.forward").
        arguments, result: how a Python call maps to its inputs and outputs.
        inputs, outputs: names, dtypes and shapes; axes that varied between calls are symbolic.
        dims: what each symbolic dimension was at its smallest and largest; those whose limits no option
            declares (a prompt's length) are absent.
        shapes: sizes of the symbolic dimensions at each recorded call: the first is the example that is
            exported, no size in it is 1 where that can be avoided.
        values: for each of `shapes`, the inputs that were more than the dry run's own zeros.
        used: names of the parameters and buffers that the method reads.
        fixed: constants of the call that change with the picture's size, so that the graph has one size only.
        state: what the pipeline had set on the module, by its path there; a leaf that fits anything where the call
            does not depend on it.
        settings: see `Call`.
        rows: the symbolic dimensions that count rows (`row_counts`): graphs of one size each may stand for them.
    """

    component: str
    method: str
    folder: str
    arguments: dict[str, Tree]
    result: Tree
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: dict[str, DimRange]
    shapes: tuple[dict[str, int], ...]
    values: tuple[dict[str, torch.Tensor], ...] = ()
    used: frozenset[str] = frozenset()
    fixed: tuple[str, ...] = ()
    state: dict[str, Tree] = field(default_factory=dict)
    other_result: Tree | None = None
    settings: Settings = field(default_factory=dict)
    rows: frozenset[str] = frozenset()


def methods(
    calls: Sequence[Call], points: Sequence[Point], fixed_rows: Collection[tuple[str, str]] = ()
) -> tuple[Method, ...]:
    """The graphs that answer all of `calls`, in the order of their first call.

    Args:
        points: what the calls were made at. Declared ranges are those of points that are not `extra`.
        fixed_rows: components' methods that get a graph for each number of rows.

    Raises:
        LatentcError: what the pipeline sets on a module for a call follows its sizes, or changes with every step.
    """
    _check_states(calls, points)
    groups: dict[str, list[Call]] = {}
    for call in calls:
        groups.setdefault(_form(call), []).append(call)
    graphs: list[Method] = []
    for form in groups.values():
        rows = (form[0].component, form[0].method) in fixed_rows
        for group in by_rows(form, points) if rows else [form]:
            folder = _folder(group[0], {m.folder for m in graphs})
            graphs.append(_method(group, points, folder))
    return tuple(graphs)


def _form(call: Call) -> str:
    """What two calls of one graph share: all but their numbers and their tensors' sizes."""
    tree: Tree = MappingNode(items=call.arguments)
    for path in call.numbers:
        tree = trees.with_number(tree, path, "#")
    ranks = {name: (str(spec.dtype), len(spec.shape)) for name, spec in call.inputs.items()}
    outputs = {name: (str(spec.dtype), len(spec.shape)) for name, spec in call.outputs.items()}
    form = [call.component, call.method, tree.model_dump(), ranks, outputs, _state_form(call)]
    return json.dumps(form, default=str)


# States of one module in one call of the pipeline, each a graph with all its weights: a few stages, not every step.
_MOST_STATES = 3


def _state_form(call: Call) -> str:
    read = {path: tree.model_dump() for path, tree in call.state.items() if not isinstance(tree, AnyLeaf)}
    return json.dumps(read, sort_keys=True)


def _check_states(calls: Sequence[Call], points: Sequence[Point]) -> None:
    """A graph is for one state: those that follow sizes or steps would each hold for what was tried alone."""
    states: dict[tuple[str, str], dict[int, dict[str, Call]]] = {}
    for call in calls:
        at = states.setdefault((call.component, call.method), {}).setdefault(call.point, {})
        at.setdefault(_state_form(call), call)
    for (component, method), by_point in states.items():
        for number, seen in by_point.items():
            others = next(s for n, s in by_point.items() if points[n].guided == points[number].guided)
            follows = seen.keys() != others.keys()
            if not follows and len(seen) <= _MOST_STATES:
                continue
            changing = sorted(
                {p for c in (*seen.values(), *others.values()) for p in c.state if _differs(p, seen, others)}
            )
            raise LatentcError(
                f"'{component}.{method}' depends on what its pipeline sets at '{changing[0]}' for the call, which "
                f"{'is not the same in calls of other sizes' if follows else 'changes from step to step'}.",
                "Leave that out of the call, if the pipeline has an argument for it: --arg NAME=VALUE",
            )


def _differs(path: str, *states: Mapping[str, Call]) -> bool:
    values = [call.state.get(path) for calls in states for call in calls.values()]
    return any(tree != values[0] for tree in values)


def _folder(call: Call, taken: set[str]) -> str:
    part, _, method = call.method.rpartition(".")
    component = "_".join([call.component, *part.split(".")]) if part else call.component
    name = FOLDERS.get(method, "{component}_{method}").format(component=component, method=method)
    folder, number = name, 2
    while folder in taken:
        folder, number = f"{name}_{number}", number + 1
    return folder


def _method(group: list[Call], points: Sequence[Point], folder: str) -> Method:
    varying, following = _numbers(group)
    sizes = {path: leaf for path in following if (leaf := _size_of(group, path)) is not None}
    fixed = [path for path in following if path not in sizes]
    first = group[0]
    if fixed:  # One size only: the first point's.
        group = [call for call in group if call.numbers == first.numbers or call.point == first.point]
        group = [c for c in group if all(c.numbers[p] == first.numbers[p] for p in fixed)]
    tree: Tree = MappingNode(items=first.arguments)
    inputs = [dict(call.inputs) for call in group]
    for path in varying:
        name = "_".join(str(part) for part in path)
        tree = trees.with_number(tree, path, name)
        whole = all(isinstance(call.numbers[path], int) for call in group)
        for spec in inputs:
            spec[name] = Spec(torch.int64 if whole else torch.float32, ())
    for path, leaf in sizes.items():
        tree = trees.with_leaf(tree, path, leaf)
    axes = _Axes([points[call.point] for call in group])
    for which, rows in (("in", inputs), ("out", [call.outputs for call in group])):
        for name in rows[0]:
            for axis in range(len(rows[0][name].shape)):
                axes.add((which, name, axis), [row[name].shape[axis] for row in rows])

    def specs(which: str, of: Mapping[str, Spec]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name=name,
                dtype=_DTYPES[spec.dtype],
                shape=tuple(
                    axes.names.get((which, name, axis), size) for axis, size in enumerate(spec.shape)
                ),
            )
            for name, spec in of.items()
        )

    assert isinstance(tree, MappingNode)
    order = axes.order()
    return Method(
        component=first.component,
        method=first.method,
        folder=folder,
        arguments=dict(tree.items),
        result=first.result,
        other_result=first.other_result,
        inputs=specs("in", inputs[0]),
        outputs=specs("out", first.outputs),
        dims=axes.ranges(),
        shapes=tuple(axes.row(i) for i in order),
        values=tuple(_values(group[i], varying) for i in order),
        used=frozenset().union(*(call.used for call in group)),
        fixed=tuple(".".join(str(part) for part in path) for path in fixed),
        state={path: tree for call in group for path, tree in call.state.items()},
        settings=first.settings,
        rows=axes.rows(),
    )


def _values(call: Call, varying: list[trees.Path]) -> dict[str, torch.Tensor]:
    numbers = {"_".join(str(part) for part in path): torch.tensor(call.numbers[path]) for path in varying}
    return {**call.values, **numbers}


def _numbers(group: list[Call]) -> tuple[list[trees.Path], list[trees.Path]]:
    """Numbers that are inputs (they change from step to step), and those that follow the picture's size."""
    varying: list[trees.Path] = []
    fixed: list[trees.Path] = []
    for path in group[0].numbers:
        values = {call.numbers[path] for call in group}
        by_point: dict[int, set[float]] = {}
        for call in group:
            by_point.setdefault(call.point, set()).add(call.numbers[path])
        if len(values) == 1:
            continue
        steps = any(len(numbers) > 1 for numbers in by_point.values())
        real = any(isinstance(value, float) for value in values)
        (varying if steps or real else fixed).append(path)
    return varying, fixed


def _size_of(group: list[Call], path: trees.Path) -> SizeLeaf | None:
    """The axis of an input that has, in every call, the size that the number at `path` tells."""
    if not all(isinstance(call.numbers[path], int) for call in group):
        return None
    for name, spec in group[0].inputs.items():
        for axis in range(len(spec.shape)):
            if all(call.inputs[name].shape[axis] == call.numbers[path] for call in group):
                return SizeLeaf(name=name, axis=axis)
    return None


def _proportional(sizes: Sequence[int], counts: Sequence[int]) -> bool:
    return all(size * counts[0] == sizes[0] * count for size, count in zip(sizes, counts, strict=True))


def _varies_with(counts: Sequence[int], sizes: Sequence[int]) -> bool:
    return len(set(counts)) > 1 and _proportional(sizes, counts)


class _Axes:
    """Symbolic dimensions: axes whose sizes vary alike share a name."""

    def __init__(self, points: list[Point]) -> None:
        self.points = points
        self.names: dict[tuple[str, str, int], str] = {}
        self._by_sizes: dict[tuple[int, ...], str] = {}

    def add(self, key: tuple[str, str, int], sizes: list[int]) -> None:
        if len(set(sizes)) == 1:
            return
        vector = tuple(sizes)
        if vector not in self._by_sizes:
            base = self._base(vector)
            name, number = base, 2
            while name in self._by_sizes.values():
                name, number = f"{base}_{number}", number + 1
            self._by_sizes[vector] = name
        self.names[key] = self._by_sizes[vector]

    def _base(self, sizes: tuple[int, ...]) -> str:
        def follows(values: list[int]) -> bool:
            if len(set(values)) == 1:
                return False
            # Monotone in the value, and equal where it is equal: sizes may be rounded on the way.
            pairs = sorted(zip(values, sizes, strict=True))
            return all((a[1] == b[1]) if a[0] == b[0] else (a[1] < b[1]) for a, b in pairwise(pairs))

        # Some parts see a video's frames as so many pictures.
        frames = [p.frames for p in self.points]
        rows = [p.batch * (2 if p.guided else 1) for p in self.points]
        both = [count * row for count, row in zip(frames, rows, strict=True)]
        pictures = [p.frames * p.batch for p in self.points]
        if len(set(frames)) > 1 and (
            follows(frames) or any(_proportional(sizes, of) for of in (both, pictures))
        ):
            return "frames"
        # Parts of a pipeline are called with a row for each picture, or for each prompt.
        for rows in ([p.batch for p in self.points], [p.prompts for p in self.points]):
            batches = [row * (2 if p.guided else 1) for row, p in zip(rows, self.points, strict=True)]
            whole = len(set(batches)) > 1 and all(s % row == 0 for s, row in zip(sizes, rows, strict=True))
            # In proportion, and not larger where there are more: a text's length is that by chance, too.
            few = all(size <= 4 * count for size, count in zip(sizes, batches, strict=True))
            if whole and (_varies_with(rows, sizes) or _varies_with(batches, sizes) or few):
                return "batch"
        for name, values in (
            ("height", [p.height for p in self.points]),
            ("width", [p.width for p in self.points]),
            ("tokens", [p.height * p.width * max(p.frames, 1) for p in self.points]),
            ("text", [p.tokens or 0 for p in self.points]),
        ):
            if follows(values):
                return name
        return "sequence"

    def row(self, index: int) -> dict[str, int]:
        """The size of every symbolic dimension at one call."""
        return {name: sizes[index] for sizes, name in self._by_sizes.items()}

    def order(self) -> list[int]:
        """One call for each set of sizes; the first is the one with the fewest ones, then in recorded order.

        torch.export takes a size of 1 for a constant.
        """
        unique: dict[str, int] = {}
        for index in range(len(self.points)):
            unique.setdefault(json.dumps(self.row(index), sort_keys=True), index)
        calls = list(unique.values())
        best = min(calls, key=lambda index: sum(size == 1 for size in self.row(index).values()))
        return [best, *(index for index in calls if index != best)]

    def ranges(self) -> dict[str, DimRange]:
        return {
            name: DimRange(min=min(self._declared(sizes)), max=max(self._declared(sizes)))
            for sizes, name in self._by_sizes.items()
            if not name.startswith("sequence")
        }

    def rows(self) -> frozenset[str]:
        """The symbolic dimensions that count rows."""
        return frozenset(name for sizes, name in self._by_sizes.items() if counts_rows(sizes, self.points))

    def _declared(self, sizes: tuple[int, ...]) -> list[int]:
        return [size for size, point in zip(sizes, self.points, strict=True) if not point.extra] or list(
            sizes
        )
