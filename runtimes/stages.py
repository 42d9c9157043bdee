"""Graphs in stages: parts of one graph that run one after the other, each opened and closed by itself.

A picture is decoded or encoded in tiles exactly, but for rounding, where the graph is cut at its group norms. Their
means and variances are of the whole picture; between two of them, convolutions see only so far. What is not local runs
whole: it lies at the latent's size. Of attention, whose scores grow with the square of that, the rows run in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from runtimes.sessions.session_contract import GraphNode, Structure

# Operators whose outputs depend on their inputs' neighbourhood alone, by ONNX's names.
_POINTWISE = frozenset(
    "Add Sub Mul Div Sigmoid Relu Swish Gelu Tanh Erf Exp Clip Sqrt Pow Cast PRelu HardSwish HardSigmoid Mish Softplus "
    "Elu LeakyRelu Neg Abs QuantizeLinear DequantizeLinear Identity Shape Concat DepthToSpace".split()
)
_RESIZES = frozenset({"Resize", "Upsample", "Pad", "MaxPool", "AveragePool"})


@dataclass(frozen=True)
class Norm:
    """A group norm between two values that are maps of a picture.

    Attributes:
        before, after: the values. after's is `before`, normalized, times and plus something for each channel.
        groups, epsilon: of the norm.
        position: of the last of its nodes.
        nodes: positions of its nodes, which are not run.
    """

    before: str
    after: str
    groups: int
    epsilon: float
    position: int
    nodes: frozenset[int]


@dataclass(frozen=True)
class Stage:
    """A part of a graph.

    Attributes:
        inputs, outputs: values.
        local: whether it can be run on tiles.
        radius: how many elements of an input, at most, an element of an output sees beside its own place.
        rows: the input each of whose rows [.., rows, features] makes the same row of the output; empty for none.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    local: bool
    radius: int
    rows: str = ""


@dataclass(frozen=True)
class Staging:
    """A graph as stages, and what is between each two: a norm, or nothing."""

    stages: tuple[Stage, ...]
    norms: tuple[Norm | None, ...]


class _Graph:
    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.makers = {name: i for i, node in enumerate(structure.nodes) for name in node.outputs}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(structure.nodes):
            for name in node.inputs:
                self.readers.setdefault(name, []).append(i)

    def is_map(self, value: str) -> bool:
        """Whether it is a picture's: of four dimensions or more and of no constants."""
        shape = self.structure.shapes.get(value)
        return (
            value not in self.structure.weights
            and (value in self.makers or value in self.structure.inputs)
            and shape is not None
            and len(shape) >= 4
            and not (shape[-1] == shape[-2] == 1)
        )

    def maker(self, value: str) -> GraphNode | None:
        position = self.makers.get(value)
        return None if position is None else self.structure.nodes[position]


def staging(structure: Structure) -> Staging | None:
    """The graph cut at the norms of its local parts; None where nothing of it is local."""
    graph = _Graph(structure)
    nodes = structure.nodes
    if not all(
        structure.shapes.get(name, (1,))[-1] is None for name in structure.inputs if graph.is_map(name)
    ):
        return None  # One size only.
    norms = [norm for norm in (_norm(graph, i) for i in range(len(nodes))) if norm is not None]
    norms = [norm for norm in norms if _crossing(graph, norm.position, norm) is not None]
    stages = _cut(graph, norms)
    # Norms between two stages that run whole are no cuts.
    kept = [
        norm
        for norm, (before, after) in zip(norms, itertools.pairwise(stages), strict=True)
        if before.local or after.local
    ]
    stages = _cut(graph, kept)
    if not any(stage.local for stage in stages):
        return None
    divided: list[Stage] = []
    between: list[Norm | None] = []
    for stage, norm in zip(stages, (*kept, None), strict=True):
        pieces = [stage] if stage.local else _attention_apart(graph, stage)
        divided += pieces
        between += [*(None for _ in pieces[1:]), norm]
    return Staging(tuple(divided), tuple(between[:-1]))


def _attention_apart(graph: _Graph, stage: Stage) -> list[Stage]:
    """The stage, with the rows of each attention in it as a stage of its own."""
    stages: list[Stage] = []
    available = stage.inputs
    for position in sorted(_nodes(graph, available, stage.outputs)):
        attention = _attention(graph, position)
        if attention is None:
            continue
        read, context = attention
        stages.append(_stage(graph, available, tuple(name for name in read if name not in available)))
        stages.append(Stage(read, (context,), local=False, radius=0, rows=read[0]))
        available = tuple(dict.fromkeys((*available, context)))
    return [*stages, _stage(graph, available, stage.outputs)]


def _attention(graph: _Graph, position: int) -> tuple[tuple[str, ...], str] | None:
    """What the attention whose softmax is at the position reads, the queries first, and the value that it makes."""
    nodes, shapes = graph.structure.nodes, graph.structure.shapes
    softmax = nodes[position]
    if softmax.kind != "Softmax" or len(graph.readers.get(softmax.outputs[0], ())) != 1:
        return None
    mixing = nodes[graph.readers[softmax.outputs[0]][0]]
    scoring = graph.maker(softmax.inputs[0])
    if scoring is None or {scoring.kind, mixing.kind} != {"MatMul"} or mixing.inputs[0] != softmax.outputs[0]:
        return None
    queries, shape = scoring.inputs[0], shapes.get(scoring.inputs[0], ())
    rank = len(shapes.get(softmax.outputs[0], ()))
    # Rows that are not transposed: there are as many as the picture has, and each is of so many features.
    if len(shape) < 3 or shape[-2] is not None or shape[-1] is None or len(shape) != rank:
        return None
    if int(softmax.attributes.get("axis", -1)) not in (-1, rank - 1):
        return None
    read = (queries, scoring.inputs[1], mixing.inputs[1])
    return (
        (read, mixing.outputs[0]) if len({*read}) == 3 and not {*read} & {*graph.structure.weights} else None
    )


def _norm(graph: _Graph, position: int) -> Norm | None:
    """The norm whose node is at the position, with what belongs to it: reshapes, and the subtraction of a pixel."""
    node = graph.structure.nodes[position]
    if node.kind not in ("GroupNormalization", "InstanceNormalization"):
        return None
    before, after, region = node.inputs[0], node.outputs[0], {position}
    shape = graph.structure.shapes.get(before, ())
    groups = int(node.attributes.get("num_groups", 0)) or (shape[1] if len(shape) > 1 else None)
    if len(shape) == 3:  # [batch, groups, all else]
        reader = graph.readers.get(after, [])
        maker = graph.makers.get(before)
        if maker is None or len(reader) != 1:
            return None
        around = graph.structure.nodes[maker], graph.structure.nodes[reader[0]]
        if any(n.kind != "Reshape" for n in around):
            return None
        before, after, region = around[0].inputs[0], around[1].outputs[0], {position, maker, reader[0]}
    channels = graph.structure.shapes.get(before, ())[1:2]
    if channels == (groups,):  # A constant of a channel is none of a group of several.
        before, pixel = _uncentred(graph, before)
        region |= pixel
    epsilon = node.attributes.get("epsilon", 1e-5)
    if groups is None or not graph.is_map(before) or not graph.is_map(after):
        return None
    return Norm(before, after, groups, epsilon, max(region), frozenset(region))


def _uncentred(graph: _Graph, value: str) -> tuple[str, set[int]]:
    """What a pixel of the picture was subtracted from, which no norm sees, and the positions of what does that."""
    subtraction = graph.maker(value)
    if subtraction is None or subtraction.kind != "Sub":
        return value, set()
    whole, pixel = subtraction.inputs[:2]
    slicing = graph.maker(pixel)
    if slicing is None or slicing.kind != "Slice" or slicing.inputs[0] != whole:
        return value, set()
    return whole, {graph.makers[value], graph.makers[pixel]}


def _crossing(graph: _Graph, position: int, norm: Norm | None) -> tuple[str, ...] | None:
    """The values that are made up to the position, or are inputs, and are read behind it; None where one is no map.

    What a norm makes stands for what it reads.
    """
    skipped = frozenset() if norm is None else norm.nodes
    values: dict[str, None] = {}
    for i, node in enumerate(graph.structure.nodes):
        if i <= position or i in skipped:
            continue
        for name in node.inputs:
            maker_position = graph.makers.get(name)
            if name in graph.structure.weights or (
                maker_position is None and name not in graph.structure.inputs
            ):
                continue
            if maker_position is None or maker_position <= position:
                values[name] = None
    for name in graph.structure.outputs:
        if graph.makers.get(name, -1) <= position:
            values[name] = None
    maps = all(graph.is_map(name) for name in values)
    return tuple(values) if maps else None


def _cut(graph: _Graph, norms: Sequence[Norm]) -> list[Stage]:
    stages = []
    available: tuple[str, ...] = graph.structure.inputs
    for norm in (*norms, None):
        if norm is None:
            outputs = graph.structure.outputs
        else:
            crossing = _crossing(graph, norm.position, norm)
            assert crossing is not None
            outputs = tuple(dict.fromkeys((norm.before, *(v for v in crossing if v != norm.after))))
        new_outputs = tuple(value for value in outputs if value not in available)
        stages.append(_stage(graph, available, new_outputs))
        available = outputs if norm is None else tuple(dict.fromkeys((norm.after, *outputs)))
    return stages


def _nodes(graph: _Graph, available: Sequence[str], outputs: Sequence[str]) -> set[int]:
    """Positions of the nodes that make the outputs of values that are there."""
    needed: set[int] = set()
    pending = list(outputs)
    while pending:
        name = pending.pop()
        if name not in available and name in graph.makers and graph.makers[name] not in needed:
            needed.add(graph.makers[name])
            pending += graph.structure.nodes[graph.makers[name]].inputs
    return needed


def _stage(graph: _Graph, available: Sequence[str], outputs: tuple[str, ...]) -> Stage:
    """What makes the outputs of values that are there."""
    needed = _nodes(graph, available, outputs)
    inputs = {name for i in needed for name in graph.structure.nodes[i].inputs} | {*outputs}
    read = tuple(name for name in available if name in inputs)
    radius, local = 0, all(map(graph.is_map, (*read, *outputs)))
    for position in needed:
        node = graph.structure.nodes[position]
        if not any(map(graph.is_map, node.inputs)):
            continue
        if node.kind == "Conv":
            kernel = graph.structure.shapes.get(node.inputs[1], ())[2:]
            sizes = [size for size in kernel if size is not None]
            spread = int(max(node.attributes.get("dilations", 1), 1))
            local &= len(sizes) == len(kernel) > 0
            radius += max(sizes, default=1) // 2 * spread * int(max(node.attributes.get("strides", 1), 1))
        elif node.kind in _RESIZES:
            radius += 2
        elif node.kind not in _POINTWISE or (node.kind == "Concat" and node.attributes.get("axis", 1) != 1):
            local = False
    return Stage(read, outputs, local, radius)
