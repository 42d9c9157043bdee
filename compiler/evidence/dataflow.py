"""Which values of a graph follow from which, and which node and module of the model made each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel

# What they return says nothing of their input's numbers.
_OF_SHAPES = frozenset({"Shape", "Size"})


class Maker(BaseModel, frozen=True):
    """The node that makes a value.

    Attributes:
        node, op_type: the node's name and operator.
        module: path of its module in the component; "" for the component itself, or where that is not known.
    """

    node: str
    op_type: str
    module: str = ""


@dataclass(frozen=True)
class Dataflow:
    """The values between the nodes of a graph.

    Attributes:
        makers: value -> what makes it, in topological order.
        sources: value -> the values that its node reads, of those in `makers`.
        outputs: of the graph.
        constants: values that follow from initializers alone, such as a weight that is cast.
    """

    makers: Mapping[str, Maker]
    sources: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    constants: frozenset[str] = frozenset()

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Value -> its place in the topological order."""
        return {name: place for place, name in enumerate(self.makers)}

    @cached_property
    def readers(self) -> Mapping[str, tuple[str, ...]]:
        """Value -> the values whose nodes read it."""
        readers: dict[str, list[str]] = {}
        for value, sources in self.sources.items():
            for source in sources:
                readers.setdefault(source, []).append(value)
        return {value: tuple(names) for value, names in readers.items()}

    def ancestors(self, values: Iterable[str]) -> frozenset[str]:
        """The values that these follow from, without themselves unless another of them follows from one."""
        reached: set[str] = set()
        pending = [source for value in values for source in self.sources.get(value, ())]
        while pending:
            value = pending.pop()
            if value not in reached:
                reached.add(value)
                pending += self.sources[value]
        return frozenset(reached)

    def nearest(self, value: str, among: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
        """What a value is computed from.

        Returns:
            Those of `among` that lead to it with no other of `among` between, and the values between.
        """
        ends: set[str] = set()
        between: set[str] = set()
        pending = list(self.sources.get(value, ()))
        while pending:
            source = pending.pop()
            if source in among:
                ends.add(source)
            elif source not in between:
                between.add(source)
                pending += self.sources[source]
        return frozenset(ends), frozenset(between)

    def module_results(self) -> dict[str, str]:
        """Value -> the module whose only result it is: the one value made inside that is read outside of it."""
        readers = {
            value: {self.makers[reader].module for reader in names} for value, names in self.readers.items()
        }
        outputs = frozenset(self.outputs)
        results: dict[str, set[str]] = {}
        for value, maker in self.makers.items():
            parts = maker.module.split(".") if maker.module else []
            for depth in range(1, len(parts) + 1):
                module = ".".join(parts[:depth])
                inside = (module, f"{module}.")
                if value in outputs or any(
                    reader != inside[0] and not reader.startswith(inside[1])
                    for reader in readers.get(value, ())
                ):
                    results.setdefault(module, set()).add(value)
        # Of modules that return what one in them returns, the innermost is the most precise.
        ordered = sorted(results.items(), key=lambda row: row[0].count("."))
        return {next(iter(values)): module for module, values in ordered if len(values) == 1}


def read(model_file: Path, module_key: str) -> Dataflow:
    """The main graph of an ONNX file; what its subgraphs read counts as read by their nodes. No weight is read.

    Args:
        module_key: of a node's metadata, under which its module stands.
    """
    import onnx

    graph = onnx.load(str(model_file), load_external_data=False).graph
    makers: dict[str, Maker] = {}
    sources: dict[str, tuple[str, ...]] = {}
    fixed = {tensor.name for tensor in graph.initializer}
    constants: set[str] = set()
    for node in graph.node:
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        maker = Maker(node=node.name, op_type=node.op_type, module=metadata.get(module_key, ""))
        read_by = () if node.op_type in _OF_SHAPES else _read(node)
        produced = tuple(name for name in dict.fromkeys(read_by) if name in makers)
        for name in filter(None, node.output):
            makers[name], sources[name] = maker, produced
            if fixed.issuperset(filter(None, _read(node))):
                constants.add(name)
        fixed |= constants
    return Dataflow(makers, sources, tuple(value.name for value in graph.output), frozenset(constants))


def _read(node: object) -> list[str]:
    names: list[str] = list(node.input)  # type: ignore[attr-defined]
    for attribute in node.attribute:  # type: ignore[attr-defined]
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in graph.node:
                names += _read(inner)
    return names
