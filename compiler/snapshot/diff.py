"""What changed between two snapshots, in words, the most important first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from artifacts.errors import UsageError
from compiler.snapshot.module_changes import Finding, compare, renamed, weight_names
from compiler.snapshot.prints import GraphPrint, Snapshot

KINDS: dict[str, str] = {
    # In order of importance: class of change -> what is said of it where classes are listed.
    "graphs": "a graph is new or gone",
    "signature": "names, types and shapes of inputs and outputs",
    "opset": "versions of the operator sets",
    "numeric": "results on seeded weights",
    "rewrites": "exact rewrites that matched before, or match now",
    "patterns": "groups of operators that runtimes fuse",
    "casts": "conversions between types",
    "quantization": "quantized weights and what unpacks them",
    "weights": "types, shapes and transforms of weights",
    "wiring": "which results go where",
    "ops": "operators more or fewer",
    "attributes": "attributes and constants of operators",
    "cost": "FLOPs, parameters, bytes",
    "names": "modules and weights under other names, alike in all else",
    "order": "inputs or outputs in another order",
    "metadata": "versions of the tools, sizes at which costs are taken",
}
"""Classes of change. The last three are harmless to whoever reads graphs by name, and nothing else is."""

HARMLESS = ("names", "order", "metadata")


@dataclass(frozen=True)
class Change:
    """One thing that is different.

    Attributes:
        graph: its name; empty for the snapshot as a whole.
        forms: the forms of the graph that it is found in.
        modules: paths; empty for the graph as a whole.
        kind: one of `KINDS`.
        text: what it was and what it is.
    """

    graph: str
    forms: tuple[str, ...]
    modules: tuple[str, ...]
    kind: str
    text: str


def diff(before: Snapshot, after: Snapshot) -> tuple[Change, ...]:
    """Every change, most important first; empty for equal graphs."""
    changes: list[Change] = []
    for field, a, b in (("model", before.model, after.model), ("made by", before.made_by, after.made_by)):
        if a != b:
            changes.append(Change("", (), (), "metadata", f"{field} {a} -> {b}"))
    if before.options != after.options:
        texts = (", ".join(s.options) or "no options" for s in (before, after))
        changes.append(Change("", (), (), "metadata", "taken with " + " -> ".join(texts)))
    old, new = ({g.key: g for g in s.graphs} for s in (before, after))
    for key in sorted(old.keys() | new.keys()):
        a_graph, b_graph = old.get(key), new.get(key)
        if a_graph is None or b_graph is None:
            graph = a_graph or b_graph
            assert graph is not None
            text = "the graph is gone" if b_graph is None else "the graph is new"
            changes.append(Change(graph.name, (graph.form,), (), "graphs", text))
        else:
            changes.extend(_graph(a_graph, b_graph))
    return tuple(sorted(_merged(changes), key=_rank))


def allowed(changes: Iterable[Change], allow: Iterable[str]) -> tuple[Change, ...]:
    """The changes that are of none of the classes `allow`.

    Raises:
        UsageError: a class that may not be allowed, or that there is not.
    """
    classes = set(allow)
    if wrong := sorted(classes - set(HARMLESS)):
        raise UsageError(
            f"changes of class '{wrong[0]}' cannot be allowed (these can: {', '.join(HARMLESS)}).",
            "Accept what changed: latentc graph check MODEL --golden FILE --update",
        )
    return tuple(change for change in changes if change.kind not in classes)


def _rank(change: Change) -> tuple[object, ...]:
    kinds = list(KINDS)
    return (kinds.index(change.kind), change.graph, -len(change.modules), change.modules, change.text)


def _graph(a: GraphPrint, b: GraphPrint) -> Iterator[Change]:
    def change(kind: str, text: str, *modules: str) -> Change:
        return Change(a.name, (a.form,), modules, kind, text)

    if a.source != b.source:
        yield change("metadata", f"made of {a.source} -> {b.source}")
    if a.targets != b.targets:
        yield change("metadata", f"for {', '.join(a.targets)} -> {', '.join(b.targets)}")
    for name in sorted(set(a.rewrites) | set(b.rewrites)):
        if name not in b.rewrites:
            yield change("rewrites", f"the rewrite {name} finds nothing any more")
        elif name not in a.rewrites:
            yield change("rewrites", f"the rewrite {name} finds something now")
    if a.precision != b.precision:
        yield change("casts", f"precision {a.precision or 'none'} -> {b.precision or 'none'}")
    for role, mine, theirs in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        yield from (change(kind, text) for kind, text in _signature(role, mine, theirs))
    for domain in sorted(a.opset.keys() | b.opset.keys()):
        versions = [o.get(domain, "none") for o in (a.opset, b.opset)]
        if versions[0] != versions[1]:
            yield change("opset", f"opset {domain or 'onnx'} {versions[0]} -> {versions[1]}")
    yield from (change("numeric", text) for text in _numeric(a.numeric, b.numeric))
    if a.sizes != b.sizes:
        yield change("metadata", f"costs are taken at {_sizes(a.sizes)} -> {_sizes(b.sizes)}")
    findings = list(_modules(a, b))
    for path, finding in findings:
        yield change(finding.kind, finding.text, path)
    reported = (
        a.opset != b.opset or sorted(a.inputs) != sorted(b.inputs) or sorted(a.outputs) != sorted(b.outputs)
    )
    if a.digest != b.digest and not reported and all(f.kind == "cost" for _, f in findings):
        yield change("wiring", "the same operators in every module, wired differently")
    if a.sizes == b.sizes:
        yield from (change("cost", text) for text in _cost(a, b))


def _modules(a: GraphPrint, b: GraphPrint) -> Iterator[tuple[str, Finding]]:
    moved = renamed(a.modules, b.modules)
    for old, new in sorted(moved.items()):
        yield old, Finding("names", f"is called {new}")
    same = a.digest == b.digest
    totals = (a.patterns, b.patterns)
    weights = (weight_names(a.modules), weight_names(b.modules))
    for path in sorted(a.modules.keys() | (b.modules.keys() - set(moved.values()))):
        yield from (
            (path, finding)
            for finding in compare(
                path,
                a.modules.get(path),
                b.modules.get(moved.get(path, path)),
                moved=moved,
                totals=totals,
                weights=weights,
                same_graph=same,
                same_sizes=a.sizes == b.sizes,
            )
        )


def _signature(role: str, a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[str, str]]:
    old, new = ({text.partition(" ")[0]: text.partition(" ")[2] for text in side} for side in (a, b))
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield "signature", f"{role} {name} is gone ({old[name]})"
        elif name not in old:
            yield "signature", f"{role} {name} is new ({new[name]})"
        elif old[name] != new[name]:
            yield "signature", f"{role} {name}: {old[name]} -> {new[name]}"
    if old == new and list(a) != list(b):
        yield "order", f"{role}s: {', '.join(old)} -> {', '.join(new)}"


def _numeric(a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    if not a or not b:
        if a or b:
            yield "results are " + ("no longer taken" if a else "taken now, and were not before")
        return
    from compiler.snapshot.seeded_results import differs

    old, new = ({line.partition(" ")[0]: line for line in side} for side in (a, b))
    for name in sorted(old.keys() & new.keys()):
        if differs(old[name], new[name]):
            yield f"result {old[name]} -> {new[name].partition(' ')[2]}"


def _cost(a: GraphPrint, b: GraphPrint) -> Iterator[str]:
    for quantity, mine, theirs in (
        ("FLOPs", a.cost.flops, b.cost.flops),
        ("parameters", a.cost.parameters, b.cost.parameters),
        ("bytes written", a.cost.bytes, b.cost.bytes),
        ("operators of unknown size", a.cost.unknown, b.cost.unknown),
    ):
        if mine != theirs:
            share = f"{100 * (theirs - mine) / mine:+.2g} %" if mine else f"{theirs:+,}"
            yield f"{quantity} {share} ({mine:,} -> {theirs:,})"


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sorted(sizes.items())) or "fixed sizes"


def _merged(changes: Iterable[Change]) -> list[Change]:
    """One change for what is the same in several modules or forms."""
    forms: dict[tuple[str, str, tuple[str, ...], str], list[str]] = {}
    for c in changes:
        forms.setdefault((c.graph, c.kind, c.modules, c.text), []).extend(c.forms)
    modules: dict[tuple[str, str, tuple[str, ...], str], list[str]] = {}
    for (graph, kind, paths, text), form_names in forms.items():
        modules.setdefault((graph, kind, tuple(form_names), text), []).extend(paths)
    return [
        Change(graph, form_names, tuple(sorted(paths)), kind, text)
        for (graph, kind, form_names, text), paths in modules.items()
    ]


def count(changes: Iterable[Change]) -> Counter[str]:
    """Changes of each class."""
    return Counter(change.kind for change in changes)
