"""Changes for a person, for a script and for GitHub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from artifacts.command_words import quoted
from compiler.snapshot.diff import KINDS, Change, count
from compiler.snapshot.module_paths import compress

# Module patterns that one line names.
_NAMED = 4

# What GitHub shows of one file at most.
_ANNOTATIONS = 10


def lines(changes: Sequence[Change]) -> Iterator[str]:
    """One line for each set of modules: where, and then what, the most important first."""
    groups: dict[tuple[str, tuple[str, ...]], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.graph, change.modules), []).append(change)
    all_forms = {(c.graph, form) for c in changes for form in c.forms}
    for (graph, modules), group in groups.items():
        where = "".join(f"{part}: " for part in (graph, _where(modules)) if part)
        several = len({form for g, form in all_forms if g == graph}) > 1
        texts = [c.text + (f" [{', '.join(c.forms)}]" if several else "") for c in group]
        yield where + "; ".join(texts)


def _where(modules: Sequence[str]) -> str:
    """ "blocks.{0..3}.norm (4 modules)"."""
    written = [path or "the root" for path in compress(modules)]
    text = ", ".join(written[:_NAMED])
    if len(written) > _NAMED:
        text += f" and {len(written) - _NAMED} more"
    return text + (f" ({len(modules)} modules)" if len(modules) > 1 else "")


def summary(changes: Sequence[Change]) -> str:
    """ "3 changes: 1 casts, 2 attributes"; "no change"."""
    if not changes:
        return "no change"
    counts = count(changes)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return f"{len(changes)} change{'s' if len(changes) > 1 else ''}: {kinds}"


def as_text(changes: Sequence[Change], allowed: int, file: str) -> str:
    """For a person."""
    header = f"{file}: {summary(changes)}" + (f" ({allowed} allowed)" if allowed else "")
    return "\n".join([header, *(f"  {line}" for line in lines(changes))])


def as_github(changes: Sequence[Change], allowed: int, file: str) -> str:
    """Annotations of a GitHub workflow: an error for each line of the text, and a notice when there is none."""
    if not changes:
        return _command("notice", file, "graph unchanged", summary(changes))
    texts = list(lines(changes))
    shown = texts[:_ANNOTATIONS]
    if len(texts) > len(shown):
        shown[-1] = (
            f"{len(texts) - len(shown) + 1} more; run: latentc graph check MODEL --golden {quoted(file)}"
        )
    return "\n".join(_command("error", file, "graph changed", line) for line in shown)


def _command(kind: str, file: str, title: str, text: str) -> str:
    def escaped(value: str, more: str = "") -> str:
        for character in "%\r\n" + more:
            value = value.replace(character, f"%{ord(character):02X}")
        return value

    return f"::{kind} file={escaped(file, ':,')},title={escaped(title, ':,')}::{escaped(text)}"


def as_data(changes: Sequence[Change], allowed: Sequence[Change]) -> dict[str, Any]:
    """For a script: both lists, and whether the first holds any."""

    def rows(of: Sequence[Change]) -> list[dict[str, Any]]:
        return [
            {
                "graph": c.graph,
                "forms": list(c.forms),
                "modules": list(c.modules),
                "class": c.kind,
                "text": c.text,
            }
            for c in of
        ]

    return {"changed": bool(changes), "changes": rows(changes), "allowed": rows(allowed)}


FORMATS: Mapping[str, Callable[[Sequence[Change], int, str], str]] = {"text": as_text, "github": as_github}
"""Formats that are texts; JSON is `as_data`."""
