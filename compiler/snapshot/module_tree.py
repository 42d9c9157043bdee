"""A graph's modules as a tree, in the order in which they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from compiler.snapshot.module_paths import absolute, split
from compiler.snapshot.prints import Cost, Counts, GraphPrint, ModulePrint


@dataclass
class Branch:
    """A module with those inside of it.

    Attributes:
        path: in the component.
        label: what its parent calls it; a place in a list goes with the list's name ("blocks.3").
        own: its own nodes; None for a mere group of modules.
        inner: those inside of it, in the order in which they run.
        cost, patterns, ops: of itself and all inside of it; `ops` are operator types.
    """

    path: str
    label: str
    own: ModulePrint | None = None
    inner: list[Branch] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    patterns: Counts = field(default_factory=dict)
    ops: Counts = field(default_factory=dict)

    def walk(self, depth: int) -> Iterator[tuple[int, Branch]]:
        """This and what is inside of it, down to `depth` levels, each with its level."""
        yield 0, self
        if depth > 0:
            for branch in self.inner:
                yield from ((level + 1, descendant) for level, descendant in branch.walk(depth - 1))


def tree(graph: GraphPrint) -> Branch:
    """The whole graph as one branch."""
    root = Branch("", graph.name, graph.modules.get(""))
    branches = {"": root}
    for path in sorted(graph.modules, key=lambda p: len(split(p))):
        _place(path, branches).own = graph.modules[path]
    _sum(root)
    _order(root, _edges(graph.modules))
    return root


def _place(path: str, branches: dict[str, Branch]) -> Branch:
    if path in branches:
        return branches[path]
    parts = split(path)
    # "blocks.3" is one step: a list by itself does nothing.
    steps = 2 if len(parts) > 1 and parts[-1].isdigit() else 1
    parent = _place(".".join(parts[:-steps]), branches)
    branch = branches[path] = Branch(path, ".".join(parts[-steps:]))
    parent.inner.append(branch)
    return branch


def _sum(branch: Branch) -> None:
    own = branch.own or ModulePrint()
    cost, patterns, ops = own.cost, Counter(own.patterns), Counter[str]()
    for text, count in own.ops.items():
        ops[text.partition(" ")[0]] += count
    for child in branch.inner:
        _sum(child)
        cost += child.cost
        patterns.update(child.patterns)
        ops.update(child.ops)
    branch.cost, branch.patterns, branch.ops = cost, dict(patterns), dict(ops)


def _edges(modules: Mapping[str, ModulePrint]) -> set[tuple[str, str]]:
    """(module read from, module that reads)."""
    edges = set()
    for path, module in modules.items():
        for text in module.reads:
            for origin in text.partition(" <- ")[2].split(", "):
                where = origin.partition("#")[0]
                if where and where != "_" and not where.startswith("<"):
                    edges.add((absolute(path, "" if where == "." else where), path))
    return edges


def _order(branch: Branch, edges: set[tuple[str, str]]) -> None:
    """Children after those that they read from; in the order of their names where that is all the same."""
    names = {child.path: child for child in branch.inner}
    needs: dict[str, set[str]] = {path: set() for path in names}
    for source, reader in edges:
        a, b = _child(source, names), _child(reader, names)
        if a is not None and b is not None and a != b:
            needs[b].add(a)
    order: list[Branch] = []
    while needs:
        ready = sorted((p for p, n in needs.items() if not n & needs.keys()), key=_natural)
        # Modules that read from one another are a loop; its first by name breaks it.
        chosen = ready[0] if ready else min(needs, key=_natural)
        del needs[chosen]
        order.append(names[chosen])
    branch.inner = order
    for child in branch.inner:
        _order(child, edges)


def _child(path: str, names: Mapping[str, Branch]) -> str | None:
    while path:
        if path in names:
            return path
        path = path.rpartition(".")[0]
    return None


def _natural(path: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in split(path)]
