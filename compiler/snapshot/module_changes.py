"""One module before and after: what a person would say of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace

from compiler.snapshot.module_paths import absolute
from compiler.snapshot.prints import Counts, ModulePrint

_QUANTIZING = frozenset({"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits"})
_NARROW = re.compile(r"\b(u?int[248]|nf4|float8\w*)\b")


@dataclass(frozen=True)
class Finding:
    """One difference: its class, a key of `compiler.snapshot.diff.KINDS`, and what to say."""

    kind: str
    text: str


def renamed(before: Mapping[str, ModulePrint], after: Mapping[str, ModulePrint]) -> dict[str, str]:
    """Modules that are gone -> new ones that are alike but for the name, in the order of their names."""
    gone: dict[object, list[str]] = {}
    for path in sorted(before.keys() - after.keys()):
        gone.setdefault(_likeness(before[path]), []).append(path)
    moved: dict[str, str] = {}
    for path in sorted(after.keys() - before.keys()):
        if alike := gone.get(_likeness(after[path])):
            moved[alike.pop(0)] = path
    return moved


def weight_names(modules: Mapping[str, ModulePrint]) -> set[str]:
    """Whole names of all weights of a graph."""
    return {absolute(path, name) for path, module in modules.items() for name in module.weights}


def _likeness(module: ModulePrint) -> object:
    reads = Counter(text.partition(" <- ")[0] for text in module.reads)
    parts = (module.ops, module.patterns, module.weights, reads)
    return (*(tuple(sorted(part.items())) for part in parts), module.cost)


def compare(
    path: str,
    before: ModulePrint | None,
    after: ModulePrint | None,
    *,
    moved: Mapping[str, str],
    totals: tuple[Counts, Counts],
    weights: tuple[Set[str], Set[str]],
    same_graph: bool,
    same_sizes: bool,
) -> list[Finding]:
    """What is different in the module `path`.

    Args:
        before, after: None where it is not there.
        moved: modules that have another name now.
        totals: patterns of the whole graph, before and after.
        weights: names of all weights of the graph, before and after.
        same_graph: the whole graph's wiring is the same, so that only names and weights can differ.
        same_sizes: costs may be compared.
    """
    old, new = before or ModulePrint(), after or ModulePrint()
    if old == new:
        return []
    findings = [
        *_patterns(old.patterns, new.patterns, totals),
        *_ops(old.ops, new.ops),
        *_weights(path, old.weights, new.weights, weights),
    ]
    if any(f.kind == "quantization" for f in findings):  # what belongs to it: scales, zero points
        findings = [replace(f, kind="quantization") if f.kind == "weights" else f for f in findings]
    if not same_graph:
        findings += _reads(_placed(path, old.reads, moved), _placed(moved.get(path, path), new.reads, {}))
    if before is None or after is None:
        word = "gone" if after is None else "new"
        names = Counter({text.partition(" ")[0]: 0 for text in (old if after is None else new).ops})
        operators = ", ".join(sorted(names)) or "nothing"
        pattern_findings = [f for f in findings if f.kind in ("patterns", "casts")]
        return [*pattern_findings, Finding("ops", f"the module is {word} ({operators})")]
    if not findings and old.digest != new.digest and not (same_graph and moved):
        if same_graph:
            findings.append(Finding("weights", "its weights have changed places"))
        else:
            findings.append(Finding("wiring", "the same operators, wired differently"))
    if not findings and same_sizes and old.cost != new.cost:
        findings.append(Finding("cost", f"FLOPs {old.cost.flops:,} -> {new.cost.flops:,}, "
                                f"bytes written {old.cost.bytes:,} -> {new.cost.bytes:,}"))  # fmt: skip
    return findings


def _patterns(a: Counts, b: Counts, totals: tuple[Counts, Counts]) -> Iterator[Finding]:
    for name in sorted(a.keys() | b.keys()):
        if a.get(name, 0) != b.get(name, 0):
            word = "lost" if a.get(name, 0) > b.get(name, 0) else "gained"
            counts = f"{totals[0].get(name, 0)} -> {totals[1].get(name, 0)}"
            yield Finding("patterns", f"{name} pattern {word}: {counts} in the graph")


def _ops(a: Counts, b: Counts) -> Iterator[Finding]:
    fewer, more = Counter(a), Counter(b)
    fewer.subtract(b)
    more.subtract(a)
    types = sorted({text.partition(" ")[0] for text in (*a, *b)})
    for kind in types:
        lost = {t: n for t, n in sorted(fewer.items()) if n > 0 and t.partition(" ")[0] == kind}
        added = {t: n for t, n in sorted(more.items()) if n > 0 and t.partition(" ")[0] == kind}
        if kind == "Cast":
            yield from (Finding("casts", f"-{n} {t}") for t, n in lost.items())
            yield from (Finding("casts", f"+{n} {t}") for t, n in added.items())
            continue
        for text, other in zip(list(lost), list(added), strict=False):
            both = min(lost[text], added[other])
            lost[text] -= both
            added[other] -= both
            times = f"{both} " if both > 1 else ""
            yield Finding("attributes", f"{times}{kind} {_changed(text, other)}")
        left = sum(added.values()) - sum(lost.values())
        name = "quantization" if kind in _QUANTIZING else "ops"
        if left:
            yield Finding(name, f"{left:+d} {kind}")
        elif any(lost.values()):
            yield Finding("attributes", f"{kind}: {', '.join(lost)} -> {', '.join(added)}")


def _changed(a: str, b: str) -> str:
    """The words of two descriptions that differ: "epsilon=1e-05 -> epsilon=1e-06"."""
    old, new = ({w.partition("=")[0].partition(":")[0]: w for w in t.split(" ")[1:]} for t in (a, b))
    parts = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            parts.append(f"{_word(old.get(key))} -> {_word(new.get(key))}")
    return ", ".join(parts)


def _word(word: str | None) -> str:
    if word is None:
        return "none"
    place, colon, value = word.partition(":")
    return f"constant {value}" if colon and place.isdigit() else word


def _weights(
    path: str, a: Mapping[str, str], b: Mapping[str, str], graph_weights: tuple[Set[str], Set[str]]
) -> Iterator[Finding]:
    gone, new = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    for name in sorted(a.keys() & b.keys()):
        if a[name] != b[name]:
            yield Finding(_class(a[name], b[name]), f"weight {name}: {a[name]} -> {b[name]}")
    for name in list(gone):
        other = next((n for n in new if b[n] == a[name]), None)
        if other is not None:
            new.remove(other)
            gone.remove(name)
            # Another weight of the same shape is another weight; one that nobody knew is a new name.
            fresh = (
                absolute(path, other) not in graph_weights[0] and absolute(path, name) not in graph_weights[1]
            )
            yield Finding("names" if fresh else "weights", f"weight {name} is now {other}")
    yield from (Finding(_class(a[name], a[name]), f"weight {name} is gone ({a[name]})") for name in gone)
    yield from (Finding(_class(b[name], b[name]), f"weight {name} is new ({b[name]})") for name in new)


def _class(a: str, b: str) -> str:
    return "quantization" if _NARROW.search(a) or _NARROW.search(b) else "weights"


def _placed(path: str, reads: Counts, moved: Mapping[str, str]) -> Counter[str]:
    """Reads with the whole paths of the modules read from."""
    counts: Counter[str] = Counter()
    for text, count in reads.items():
        op, _, origins = text.partition(" <- ")
        names = [_origin(path, origin, moved) for origin in origins.split(", ")]
        counts[f"{op} <- {', '.join(names)}"] += count
    return counts


def _origin(path: str, seen: str, moved: Mapping[str, str]) -> str:
    if seen == "_" or seen.startswith("<"):
        return seen
    where, mark, place = seen.partition("#")
    whole = absolute(path, "" if where == "." else where)
    return moved.get(whole, whole) + mark + place


def _reads(a: Counter[str], b: Counter[str]) -> Iterator[Finding]:
    lost, added = a - b, b - a
    for text in sorted(lost):
        op = text.partition(" <- ")[0]
        other = next((t for t in sorted(added) if t.partition(" <- ")[0] == op and added[t]), None)
        if other is None:
            continue
        added[other] -= 1
        if _foreign(text) != _foreign(other):
            yield Finding("wiring", f"{op} reads {_difference(text, other)}")
    # Whole operators more or fewer are told as such.


def _foreign(text: str) -> list[str]:
    return [name for name in text.partition(" <- ")[2].split(", ") if name != "_"]


def _difference(a: str, b: str) -> str:
    old, new = (text.partition(" <- ")[2].split(", ") for text in (a, b))
    if len(old) != len(new):
        return f"({', '.join(new)}) instead of ({', '.join(old)})"
    pairs = [(x, y) for x, y in zip(old, new, strict=True) if x != y]
    return ", ".join(f"{_place(y)} instead of {_place(x)}" for x, y in pairs)


def _place(name: str) -> str:
    if name == "_":
        return "a result of its own"
    if name.startswith("<"):
        return f"the input {name[1:-1]}"
    where, mark, place = name.partition("#")
    return (where or "the root") + (f" (result {int(place) + 1})" if mark else "")
