"""A graph becomes its fingerprint. No weight is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from compiler.snapshot import cost, describe, patterns
from compiler.snapshot.module_paths import labels, relative
from compiler.snapshot.prints import Cost, GraphPrint, ModulePrint
from compiler.snapshot.topology import Modules, digest


def fingerprint(
    model: ir.Model,
    *,
    name: str = "",
    form: str = "fp32",
    source: str = "",
    sizes: Mapping[str, int] | None = None,
    targets: tuple[str, ...] = (),
    precision: str = "",
    rewrites: tuple[str, ...] = (),
) -> GraphPrint:
    """What is worth comparing of a graph.

    Args:
        model: is not changed. Nodes tell their module by `compiler.export.scopes.MODULE`; of a graph without any,
            all nodes belong to the root.
        name, form, source, targets, precision, rewrites: as in `GraphPrint`.
        sizes: of each symbolic dimension, for the costs.
    """
    sizes = dict(sizes or {})
    fixed = cost.at_sizes(model, sizes)
    graph = fixed.graph
    where = labels(graph)
    words = {node: describe.operator(node) for node in graph}
    wiring = Modules(graph, where, words)
    digests, reads = wiring.digests(), wiring.reads()
    collected = {path: _Collected() for path in sorted(set(where.values()))}
    for node in graph:
        collected[where[node]].add(node, words[node])
    for pattern, node in patterns.matches(graph):
        collected[where[node]].patterns[pattern] += 1
    _add_weights(graph, where, collected)
    modules = {
        path: ModulePrint(
            ops=dict(c.ops),
            patterns=dict(c.patterns),
            weights=c.weights,
            reads=reads[path],
            cost=Cost(c.flops, c.parameters, c.bytes, c.unknown),
            digest=digests[path][:12],
        )
        for path, c in collected.items()
    }
    return GraphPrint(
        name=name,
        form=form,
        source=source,
        opset=dict(model.opset_imports),
        inputs=tuple(_signature(value) for value in model.graph.inputs),
        outputs=tuple(_signature(value) for value in model.graph.outputs),
        sizes=sizes,
        modules=modules,
        digest=digest(fixed, words),
        targets=targets,
        precision=precision,
        rewrites=rewrites,
    )


class _Collected:
    def __init__(self) -> None:
        self.ops: Counter[str] = Counter()
        self.patterns: Counter[str] = Counter()
        self.weights: dict[str, str] = {}
        self.flops = self.parameters = self.bytes = self.unknown = 0

    def add(self, node: ir.Node, words: str) -> None:
        self.ops[_with_neighbours(node, words)] += 1
        self.flops += cost.flops(node)
        self.bytes += cost.written(node)
        self.unknown += cost.unknown(node)


def _with_neighbours(node: ir.Node, words: str) -> str:
    """A Cast by what stands around it: that is how a person finds it again."""
    if node.op_type != "Cast":
        return words
    value = node.inputs[0]
    maker = None if value is None else value.producer()
    before = maker.op_type if maker is not None else "weight" if describe.is_weight(value) else "input"
    readers = sorted({use.node.op_type for use in node.outputs[0].uses()})
    after = "/".join(readers[:3]) if readers else "output"
    return f"{words} between {before} and {after}"


def _add_weights(graph: ir.Graph, where: Mapping[ir.Node, str], collected: Mapping[str, _Collected]) -> None:
    """Each weight belongs to the module whose name it bears, or else to the first that reads it."""
    for value in graph.initializers.values():
        if not describe.is_weight(value):
            continue
        key = describe.weight_key(value)
        owner = key.rpartition(".")[0]
        readers = sorted({where[use.node] for use in value.uses() if use.node in where})
        if owner not in readers and readers:
            owner = readers[0]
        if owner not in collected:
            continue  # nothing reads it
        into = collected[owner]
        name = relative(owner, key)
        while name in into.weights:  # one stored tensor, cut or cast in two ways
            name += "'"
        into.weights[name] = describe.weight(value)
        assert value.const_value is not None
        into.parameters += math.prod(value.const_value.shape.numpy())


def _signature(value: ir.Value) -> str:
    return f"{value.name} {describe.type_name(value)} {describe.shape(value.shape)}"
