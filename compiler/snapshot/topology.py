"""Digests of wiring that depend on neither names nor the order of independent nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import onnx_ir as ir

from compiler.snapshot import describe
from compiler.snapshot.module_paths import relative


def digest(model: ir.Model, words: Mapping[ir.Node, str]) -> str:
    """SHA-256 of the whole graph: operators and what they are applied to, down to inputs, constants and weights.

    Weights count by type, shape and transforms, not by name; inputs and outputs by name and not by order.

    Args:
        words: what to call each node (`describe.operator`).
    """
    graph = model.graph
    seen: dict[ir.Value | None, str] = {None: "-"}
    for value in graph.inputs:
        seen[value] = f"input {value.name}"
    hashes = []
    for node in graph:
        node_hash = _hash(words[node], *(_name(seen, value) for value in node.inputs))
        hashes.append(node_hash)
        seen.update((value, f"{node_hash}:{i}") for i, value in enumerate(node.outputs))
    outputs = sorted(f"{value.name} {_name(seen, value)}" for value in graph.outputs)
    opsets = sorted(f"{domain} {version}" for domain, version in model.opset_imports.items())
    return _hash(*opsets, "outputs", *outputs, "nodes", *sorted(hashes))


def _name(seen: Mapping[ir.Value | None, str], value: ir.Value | None) -> str:
    if value in seen:
        return seen[value]
    assert value is not None
    if describe.is_weight(value):
        return "weight " + describe.weight(value)
    return "constant " + (describe.constant(value.const_value) or "?")


class Modules:
    """The same for each module by itself, and which modules it reads from.

    Args:
        labels: node -> module path.
        words: node -> what to call it.
    """

    def __init__(self, graph: ir.Graph, labels: Mapping[ir.Node, str], words: Mapping[ir.Node, str]) -> None:
        self._labels = labels
        self._words = words
        self._nodes: dict[str, list[ir.Node]] = {}
        for node in graph:
            self._nodes.setdefault(labels[node], []).append(node)
        self._places = self._exported()

    def digests(self) -> dict[str, str]:
        """Path -> digest of the module's own nodes and their wiring."""
        return {path: _hash(*sorted(self._local(path, True).values())) for path in self._nodes}

    def reads(self) -> dict[str, dict[str, int]]:
        """Path -> "Operator <- where its inputs come from" -> how many; "_" is the module itself.

        Weights and constants are left out.
        """
        reads: dict[str, dict[str, int]] = {}
        for path, nodes in self._nodes.items():
            counts = reads.setdefault(path, {})
            for node in nodes:
                if any(self._is_foreign(path, value) for value in node.inputs):
                    origins = ", ".join(
                        self._origin(path, value)
                        for value in node.inputs
                        if value is not None
                        and (value.producer() is not None or self._is_foreign(path, value))
                    )
                    text = f"{node.op_type} <- {origins}"
                    counts[text] = counts.get(text, 0) + 1
        return reads

    def _is_foreign(self, path: str, value: ir.Value | None) -> bool:
        maker = None if value is None else value.producer()
        return value is not None and (
            value.is_graph_input() if maker is None else self._labels.get(maker, path) != path
        )

    def _origin(self, path: str, value: ir.Value) -> str:
        maker = value.producer()
        if maker is not None:
            other = self._labels.get(maker, path)
            if other == path:
                return "_"
            place = self._places.get(value, 0)
            return (relative(path, other) or ".") + (f"#{place}" if place else "")
        return f"<{value.name}>"

    def _exported(self) -> dict[ir.Value, int]:
        """Values that other modules read -> their places among those of one module, by what they are."""
        places: dict[ir.Value, int] = {}
        for path, nodes in self._nodes.items():
            hashes = self._local(path, False)
            values = [
                (hashes[node], index, value)
                for node in nodes
                for index, value in enumerate(node.outputs)
                if any(self._labels.get(use.node, path) != path for use in value.uses())
            ]
            values.sort(key=lambda item: item[:2])
            places.update((value, place) for place, (_, _, value) in enumerate(values))
        return places

    def _local(self, path: str, named: bool) -> dict[ir.Node, str]:
        """A hash for each node of a module, over what is inside of it; `named`: with its neighbours' places."""
        nodes = self._nodes[path]
        foreign: list[str] = []
        if named:
            foreign = sorted(
                {
                    self._origin(path, value)
                    for node in nodes
                    for value in node.inputs
                    if value is not None and self._is_foreign(path, value)
                }
            )
        hashes: dict[ir.Node, str] = {}
        for node in nodes:
            parts = []
            for value in node.inputs:
                maker = None if value is None else value.producer()
                if value is None:
                    parts.append("-")
                elif maker in hashes:
                    parts.append(f"{hashes[maker]}:{maker.outputs.index(value)}")
                elif self._is_foreign(path, value):
                    parts.append(
                        f"foreign {foreign.index(self._origin(path, value))}" if named else "foreign"
                    )
                elif describe.is_weight(value):
                    name = relative(path, describe.weight_key(value))
                    parts.append(f"weight {name} {describe.weight(value)}")
                else:
                    parts.append("constant " + (describe.constant(value.const_value) or "?"))
            hashes[node] = _hash(self._words[node], *parts)
        return hashes


def _hash(*parts: str) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode())
        state.update(b"\0")
    return state.hexdigest()
