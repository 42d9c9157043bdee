"""Paths of modules: which node belongs where, seen from one another, and many of them written as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product

import onnx_ir as ir

from compiler.export.scopes import MODULE

_NUMBER = re.compile(r"^\d+$")


def labels(graph: ir.Graph) -> dict[ir.Node, str]:
    """The module path of every node of the main graph.

    A node that some pass made and did not label belongs where its data comes from; where it reads only constants,
    to the node that reads it.
    """
    paths = {n: n.metadata_props[MODULE] for n in graph if MODULE in n.metadata_props}
    for node in graph:
        if node not in paths:
            makers = (v.producer() for v in node.inputs if v is not None)
            maker_paths = [paths[maker] for maker in makers if maker in paths]
            if maker_paths:
                paths[node] = maker_paths[0]
    for node in reversed(list(graph)):
        if node not in paths:
            readers = [paths[u.node] for v in node.outputs for u in v.uses() if u.node in paths]
            paths[node] = min(readers, default="")
    return paths


def split(path: str) -> list[str]:
    """ "a.0.b" -> ["a", "0", "b"]; the root is []."""
    return path.split(".") if path else []


def relative(own: str, other: str) -> str:
    """`other` as seen from `own`: "^" for each level up; "+1" and "-1" for neighbours in a list.

    Equal blocks of a model see their surroundings alike, which is what lets them be written once.
    """
    mine, theirs = split(own), split(other)
    common = 0
    while common < min(len(mine), len(theirs)) and mine[common] == theirs[common]:
        common += 1
    rest = theirs[common:]
    if rest and common < len(mine) and _NUMBER.match(rest[0]) and _NUMBER.match(mine[common]):
        rest[0] = f"{int(rest[0]) - int(mine[common]):+d}"
    return "^" * (len(mine) - common) + ".".join(rest)


def absolute(own: str, seen: str) -> str:
    """The path that `relative` wrote as `seen`."""
    mine = split(own)
    ups = len(seen) - len(seen.lstrip("^"))
    rest = split(seen[ups:])
    common = len(mine) - ups
    if rest and rest[0][0] in "+-":
        rest[0] = str(int(mine[common]) + int(rest[0]))
    return ".".join([*mine[:common], *rest])


def compress(paths: Iterable[str]) -> list[str]:
    """Paths that differ only in numbers as one: "blocks.{0..3}.norm". `expand` undoes it."""
    templates: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
    for path in paths:
        parts = split(path)
        key = tuple("#" if _NUMBER.match(p) else p for p in parts)
        templates.setdefault(key, set()).add(tuple(int(p) for p in parts if _NUMBER.match(p)))
    written = []
    for key, numbers in templates.items():
        for block in _blocks(numbers):
            values = iter(block)
            written.append(".".join(_numbers(next(values)) if part == "#" else part for part in key))
    return sorted(written)


def _blocks(numbers: set[tuple[int, ...]]) -> list[tuple[tuple[int, ...], ...]]:
    """A set of vectors as few products of sets."""
    if numbers == {()}:
        return [()]
    tails: dict[int, set[tuple[int, ...]]] = {}
    for vector in numbers:
        tails.setdefault(vector[0], set()).add(vector[1:])
    alike: dict[frozenset[tuple[int, ...]], list[int]] = {}
    for first, rest in sorted(tails.items()):
        alike.setdefault(frozenset(rest), []).append(first)
    return [(tuple(firsts), *block) for rest, firsts in alike.items() for block in _blocks(set(rest))]


def _numbers(values: tuple[int, ...]) -> str:
    if len(values) == 1:
        return str(values[0])
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    texts = [f"{r[0]}..{r[-1]}" if len(r) > 2 else ",".join(str(v) for v in r) for r in runs]
    return "{" + ",".join(texts) + "}"


def expand(written: str) -> list[str]:
    """The paths that `compress` wrote as one."""
    pieces = re.split(r"\{([\d.,]+)\}", written)
    choices = [[piece] if i % 2 == 0 else _values(piece) for i, piece in enumerate(pieces)]
    return ["".join(choice) for choice in product(*choices)]


def _values(text: str) -> list[str]:
    values: list[str] = []
    for run in text.split(","):
        first, _, last = run.partition("..")
        values.extend(str(v) for v in range(int(first), int(last or first) + 1))
    return values


def common(paths: Sequence[str]) -> str:
    """The deepest module that holds all of `paths`."""
    parts = [split(path) for path in paths]
    prefix: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        prefix.append(level[0])
    return ".".join(prefix)
