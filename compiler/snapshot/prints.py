"""Fingerprints as data, and as the text that is kept: sorted, one fact a line, equal modules written once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from functools import cached_property

from artifacts.command_words import quoted
from artifacts.errors import LatentcError
from compiler.snapshot.module_paths import compress, expand

HEAD = "latentc graph snapshot 2"

_AGAIN = "Take the file back from version control, or write it again: latentc graph snapshot MODEL -o FILE"

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """Of one call, at the sizes that its graph names.

    Attributes:
        flops: two for each multiply-accumulate of a matrix product or convolution.
        parameters: elements of the weights.
        bytes: what the operators write.
        unknown: operators whose results have sizes that do not follow from the inputs'; nothing is counted of them.
    """

    flops: int = 0
    parameters: int = 0
    bytes: int = 0
    unknown: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def text(self) -> str:
        """As it stands in a snapshot."""
        figures = f"{self.flops} FLOPs, {self.parameters} parameters, {self.bytes} bytes"
        return f"{figures}, {self.unknown} operators of unknown size" if self.unknown else figures


@dataclass(frozen=True)
class ModulePrint:
    """What the nodes of one module are; modules inside of it have their own.

    Attributes:
        ops: operator with attributes and small constants -> how many.
        patterns: name -> how many.
        weights: name, as seen from the module -> type, shape and transforms.
        reads: "Operator <- modules whose results it takes", as seen from the module -> how many.
        digest: of the nodes and their wiring inside the module.
    """

    ops: Counts = field(default_factory=dict)
    patterns: Counts = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    reads: Counts = field(default_factory=dict)
    cost: Cost = Cost()
    digest: str = ""

    def lines(self) -> tuple[str, ...]:
        """As they stand in the text; equal for equal modules."""
        return (
            *(f"op {text} x{count}" for text, count in sorted(self.ops.items())),
            *(f"pattern {name} x{count}" for name, count in sorted(self.patterns.items())),
            *(f"weight {name} {text}" for name, text in sorted(self.weights.items())),
            *(f"read {text} x{count}" for text, count in sorted(self.reads.items())),
            f"cost {self.cost.text()}",
            f"digest {self.digest}",
        )


@dataclass(frozen=True)
class GraphPrint:
    """One graph.

    Attributes:
        name: its folder in an artifact ("unet", "vae_decoder").
        form: "fp32" for the target-neutral graph, or the targets that take it so: "directml, tensorrt".
        source: class and method that it answers.
        opset: domain -> version ("" is ONNX's own).
        inputs, outputs: "name dtype [shape]".
        sizes: what symbolic dimensions were for the costs.
        modules: path -> its print.
        digest: of the whole wiring, independent of all names.
        numeric: results on seeded weights, a line each; empty for large models.
        targets: who takes this form.
        precision: how weights are stored and who decides on activations: "fp16 weights"; empty for the neutral graph.
        rewrites: names of the exact rewrites that changed something.
    """

    name: str
    form: str
    source: str
    opset: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: Mapping[str, int]
    modules: Mapping[str, ModulePrint]
    digest: str
    numeric: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    precision: str = ""
    rewrites: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.name} ({self.form})"

    @cached_property
    def cost(self) -> Cost:
        """Of all modules together."""
        return sum((m.cost for m in self.modules.values()), Cost())

    @cached_property
    def patterns(self) -> Counts:
        """Of all modules together."""
        return sum((Counter(m.patterns) for m in self.modules.values()), Counter())

    @cached_property
    def op_types(self) -> Counts:
        """Operator type -> how many."""
        total: Counter[str] = Counter()
        for module in self.modules.values():
            for text, count in module.ops.items():
                total[text.partition(" ")[0]] += count
        return total


@dataclass(frozen=True)
class Snapshot:
    """A pipeline's graphs.

    Attributes:
        model: the pipeline's class.
        made_by: the versions of what shaped the graphs.
        options: what it was taken with, as `compiler.snapshot.take.SnapshotOptions` writes it.
    """

    model: str
    made_by: str
    graphs: tuple[GraphPrint, ...]
    options: tuple[str, ...] = ()

    def text(self) -> str:
        """The canonical text."""
        lines = [HEAD, f"model {self.model}", f"made by {self.made_by}"]
        lines.append(f"graphs {len(self.graphs)}")
        lines += (f"option {text}" for text in self.options)
        for graph in sorted(self.graphs, key=lambda g: g.key):
            lines += ["", *_graph_lines(graph)]
        return "\n".join(lines) + "\n"


def _graph_lines(graph: GraphPrint) -> Iterator[str]:
    yield f"graph {graph.key}"
    if graph.targets:
        yield f"targets {', '.join(graph.targets)}"
    if graph.precision:
        yield f"precision {graph.precision}"
    yield from (f"rewrite {name}" for name in graph.rewrites)
    yield f"source {graph.source}"
    yield from (f"opset {domain or 'onnx'} {version}" for domain, version in sorted(graph.opset.items()))
    yield from (f"input {text}" for text in graph.inputs)
    yield from (f"output {text}" for text in graph.outputs)
    yield "sizes " + ", ".join(f"{name}={size}" for name, size in sorted(graph.sizes.items()))
    yield from (f"total {text}" for text in _totals(graph))
    yield from (f"numeric {line}" for line in graph.numeric)
    yield f"digest {graph.digest}"
    bodies: dict[tuple[str, ...], list[str]] = {}
    for path, module in graph.modules.items():
        bodies.setdefault(module.lines(), []).append(path)
    blocks = sorted((compress(paths), body) for body, paths in bodies.items())
    for paths, body in blocks:
        yield ""
        yield from (f"module {path}" for path in paths)
        yield from (f"  {line}" for line in body)


def _totals(graph: GraphPrint) -> Iterator[str]:
    """Of all modules; who reads the text again knows by them that no module is gone."""
    yield graph.cost.text()
    yield from (f"{count} {name}" for name, count in sorted(graph.patterns.items()))
    yield from (f"{count} {name}" for name, count in sorted(graph.op_types.items()))


def parse(text: str, name: str) -> Snapshot:
    """The snapshot that `Snapshot.text` wrote.

    Args:
        name: of the file, for messages.

    Raises:
        LatentcError: it is none, or it is damaged or cut off; the message tells the line or what is gone.
    """
    lines = text.splitlines()
    if not lines or lines[0] != HEAD:
        raise LatentcError(
            f"{name} is not a graph snapshot of this version: its first line must be '{HEAD}'.",
            f"Write it again: latentc graph snapshot MODEL -o {quoted(name)}",
        )
    reader = _Reader()
    for number, line in enumerate(lines[1:], start=2):
        try:
            reader.line(line)
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            raise LatentcError(
                f"{name}, line {number}, is not a line of a graph snapshot: {line.strip()[:80]!r}.",
                _AGAIN,
            ) from error
    ended = text.endswith("\n") and not text.endswith("\n\n")
    if missing := reader.missing() if ended else "its end":
        raise LatentcError(f"{name} is cut off or damaged: {missing} is not whole.", _AGAIN)
    return reader.snapshot()


class _Reader:
    def __init__(self) -> None:
        # "graphs" is how many there are; files of earlier versions do not tell.
        self.head: dict[str, str] = {"model": "", "made": "", "graphs": ""}
        self.options: list[str] = []
        self.graphs: list[_Graph] = []

    def line(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if not word:
            return
        if line.startswith("  "):
            self.graphs[-1].body(word, rest)
        elif word == "graph":
            self.graphs.append(_Graph(rest))
        elif word == "option" and not self.graphs:
            self.options.append(rest)
        elif not self.graphs:
            if word not in self.head:
                raise ValueError(word)
            self.head[word] = rest.removeprefix("by ") if word == "made" else rest
        else:
            self.graphs[-1].head(word, rest)

    def missing(self) -> str:
        """What is not whole, for people; empty where nothing is."""
        damaged = next((graph.key for graph in self.graphs if not graph.whole()), "")
        if damaged:
            return f"the graph {damaged}"
        present, count = str(len(self.graphs)), self.head["graphs"]
        if self.graphs and not count:
            return ""
        return "" if count == present else f"the list of graphs ({present} of {count or 'any'})"

    def snapshot(self) -> Snapshot:
        graphs = tuple(graph.done() for graph in self.graphs)
        return Snapshot(self.head["model"], self.head["made"], graphs, tuple(self.options))


class _Graph:
    def __init__(self, key: str) -> None:
        self.key = key
        self.totals: list[str] = []
        name, _, form = key.partition(" (")
        self.name, self.form = name, form.removesuffix(")")
        self.header: dict[str, str] = {"source": "", "digest": "", "targets": "", "precision": ""}
        self.many: dict[str, list[str]] = {"input": [], "output": [], "numeric": [], "rewrite": []}
        self.opset: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.modules: dict[str, ModulePrint] = {}
        self.paths: list[str] = []
        self.maps: dict[str, dict[str, int]] = {}
        self.weights: dict[str, str] = {}
        self.cost = Cost()

    def head(self, word: str, rest: str) -> None:
        if word == "module":
            self.paths.extend(expand(rest))
        elif word in self.header:
            self.header[word] = rest
        elif word in self.many:
            self.many[word].append(rest)
        elif word == "opset":
            domain, version = rest.split(" ")
            self.opset["" if domain == "onnx" else domain] = int(version)
        elif word == "sizes":
            self.sizes = {n: int(v) for n, v in (pair.split("=") for pair in rest.split(", ") if pair)}
        elif word == "total":
            self.totals.append(rest)
        else:
            raise ValueError(word)

    def body(self, word: str, rest: str) -> None:
        if word in ("op", "pattern", "read"):
            text, _, count = rest.rpartition(" x")
            self.maps.setdefault(word, {})[text] = int(count)
        elif word == "weight":
            name, _, text = rest.partition(" ")
            self.weights[name] = text
        elif word == "cost":
            self.cost = Cost(*(int(part.split(" ")[0]) for part in rest.split(", ")))
        elif word == "digest":
            self._module(rest)
        else:
            raise ValueError(word)

    def _module(self, digest: str) -> None:
        maps = self.maps
        module = ModulePrint(
            ops=maps.get("op", {}),
            patterns=maps.get("pattern", {}),
            weights=self.weights,
            reads=maps.get("read", {}),
            cost=self.cost,
            digest=digest,
        )
        self.modules.update((path, module) for path in self.paths)
        self.paths, self.maps, self.weights, self.cost = [], {}, {}, Cost()

    def whole(self) -> bool:
        """Whether it has all that its head and its totals speak of."""
        begun = self.paths or self.maps or self.weights
        return (
            bool(self.form and self.header["digest"]) and not begun and self.totals == [*_totals(self.done())]
        )

    def done(self) -> GraphPrint:
        return GraphPrint(
            name=self.name,
            form=self.form,
            source=self.header["source"],
            opset=self.opset,
            inputs=tuple(self.many["input"]),
            outputs=tuple(self.many["output"]),
            sizes=self.sizes,
            modules=self.modules,
            digest=self.header["digest"],
            numeric=tuple(self.many["numeric"]),
            targets=tuple(name for name in self.header["targets"].split(", ") if name),
            precision=self.header["precision"],
            rewrites=tuple(self.many["rewrite"]),
        )


def totals(graphs: Iterable[GraphPrint]) -> Cost:
    """Of several graphs together."""
    return sum((g.cost for g in graphs), Cost())
