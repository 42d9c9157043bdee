"""What DirectML's provider has kernels for: the table in ``kernels.json``, and how it is derived.

ONNX Runtime publishes the kernels of its execution providers in docs/OperatorKernels.md of its repository, a file
that it generates from the registrations themselves. To derive the table from another version of that file:

    python -m targets.directml.kernels OperatorKernels.md --commit SHA --version "1.24"
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("kernels.json")
SECTION = "## Operators implemented by DmlExecutionProvider"

# Of the other domains, com.microsoft.dml is what the provider writes itself while it fuses.
DOMAINS = {"ai.onnx": "", "com.microsoft": "com.microsoft"}

_DOMAIN = re.compile(r"\*\*Operator Domain:\*\* \*(.+?)\*")
_PARAMETER = re.compile(r"\*(in|out)\* \w+:\*\*(.+?)\*\*")
_CONSTRAINT = re.compile(r"\*\*(\w+)\*\* = ([^*]*)")
_VERSION = re.compile(r"(\d+)(\+)?|\[(\d+), (\d+)\]")


@dataclass(frozen=True)
class Kernel:
    """One row.

    Attributes:
        since, until: the versions it was registered for; `until` is None for an open end.
        types: type constraint -> names of the element types that it takes ("float16"). What it names no
            constraint for is not looked at.
        inputs, outputs: the constraint, or the one type, of each parameter; empty where the operator's ONNX
            schema says so.
    """

    since: int
    until: int | None
    types: Mapping[str, frozenset[str]]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def matches(self, version: int) -> bool:
        """Whether the registry takes it for a node whose schema is since `version`.

        An open end does not mean "and later": a later schema may say something else.
        """
        return version == self.since or (self.until is not None and self.since <= version <= self.until)


@dataclass(frozen=True)
class Table:
    """The kernels by domain and operator, newest first, and the file that they were derived from."""

    commit: str
    version: str
    kernels: Mapping[tuple[str, str], tuple[Kernel, ...]]


@cache
def table() -> Table:
    """The table that is shipped."""
    stored: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    kernels = {
        (domain, op): tuple(_kernels(rows))
        for domain, ops in stored["kernels"].items()
        for op, rows in ops.items()
    }
    return Table(stored["source"]["commit"], stored["source"]["version"], kernels)


def _kernels(rows: list[dict[str, Any]]) -> Iterator[Kernel]:
    for row in rows:
        types = {name: frozenset(text.split()) for name, text in row["types"].items()}
        for version in row["versions"]:
            since, until = version if isinstance(version, list) else (version, None)
            yield Kernel(since, until, types, tuple(row.get("inputs", ())), tuple(row.get("outputs", ())))


def derive(markdown: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Domain -> operator -> rows, of the text of docs/OperatorKernels.md.

    Rows that differ in their version alone become one. Only tensors are kept: no graph here has sequences.

    Raises:
        ValueError: the text has no such section, or a row that this does not understand.
    """
    _, heading, section = markdown.partition(SECTION)
    if not heading:
        raise ValueError(f"there is no section '{SECTION}'")
    result: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in DOMAINS.values()}
    domain, op, parameters = "", "", ""
    for line in section.partition("\n## ")[0].splitlines():
        if header := _DOMAIN.search(line):
            domain = header[1]
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if header or len(cells) != 4 or cells[0] == "Op Name" or set(line) <= set("|-"):
            continue
        op, parameters = (cells[0], cells[1]) if cells[0] else (op, parameters)
        row = _row(cells[2], cells[3], parameters if domain != "ai.onnx" else "")
        if domain in DOMAINS and row is not None:
            _add(result[DOMAINS[domain]].setdefault(op, []), row)
    return {
        name: dict(sorted((op, rows) for op, rows in ops.items() if rows)) for name, ops in result.items()
    }


def _row(version: str, constraints: str, parameters: str) -> dict[str, Any] | None:
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"unknown form of versions: '{version}'")
    if match[3]:
        versions: Any = [int(match[3]), int(match[4])]
    else:
        versions = int(match[1]) if match[2] else [int(match[1]), int(match[1])]
    types = {
        name: " ".join(re.findall(r"(?<!\()\btensor\((\w+)\)", text))
        for name, text in _CONSTRAINT.findall(constraints)
    }
    if not all(types.values()):
        return None
    row: dict[str, Any] = {"versions": [versions], "types": types}
    formals = _PARAMETER.findall(parameters)
    for kind, name in (("in", "inputs"), ("out", "outputs")):
        if formals:
            row[name] = [_plain(text) for where, text in formals if where == kind]
    return row


def _plain(text: str) -> str:
    return text.removeprefix("tensor(").removesuffix(")")


def _add(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    for other in rows:
        if {**other, "versions": 0} == {**row, "versions": 0}:
            other["versions"].extend(row["versions"])
            return
    rows.append(row)


def _dump(source: Mapping[str, str], kernels: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """JSON with one line for each operator."""
    lines = ["{", f'"source": {json.dumps(source)},', '"kernels": {']
    for i, (domain, ops) in enumerate(kernels.items()):
        lines.append(f"{json.dumps(domain)}: {{")
        lines.extend(
            f"{json.dumps(op)}: {json.dumps(rows)}{',' if n + 1 < len(ops) else ''}"
            for n, (op, rows) in enumerate(ops.items())
        )
        lines.append("}" + ("," if i + 1 < len(kernels) else ""))
    return "\n".join([*lines, "}", "}", ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m targets.directml.kernels", description=__doc__)
    parser.add_argument("markdown", type=Path, help="docs/OperatorKernels.md of microsoft/onnxruntime")
    parser.add_argument("--commit", required=True)
    parser.add_argument("--version", required=True)
    args = parser.parse_args()
    source = {
        "repository": "microsoft/onnxruntime",
        "path": "docs/OperatorKernels.md",
        "commit": args.commit,
        "version": args.version,
    }
    text = _dump(source, derive(args.markdown.read_text(encoding="utf-8")))
    FILE.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
