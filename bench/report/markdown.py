"""The report as Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from bench import markdown_tables
from bench.record import Bench
from bench.report import tables
from bench.report.tables import Column


def page(bench: Bench) -> str:
    """The whole page."""
    reference = f"; compared with {bench.reference}" if bench.reference else ""
    parts = [
        "## latentc bench",
        f"{tables.counts(bench)}{reference}. "
        f"{bench.environment.processor}, {bench.environment.cores} cores, {bench.created[:10]}.",
        table(bench, tables.used(tables.SPEED, bench)),
        table(bench, tables.used(tables.QUALITY, bench)),
        "\n".join(f"- {_plain(note)}" for note in [*tables.failures(bench), *tables.notes(bench)]),
        "<details><summary>Environment</summary>\n\n"
        + "\n".join(f"- {name}: {_plain(value)}" for name, value in tables.environment(bench))
        + "\n\n</details>",
        f"Again: `{tables.command(bench)}`",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(bench: Bench, columns: Sequence[Column]) -> str:
    """One line for each variant."""
    heads = [column.head for column in columns]
    rows = [
        [_plain(variant.name), *(_plain(column.cell(variant)) for column in columns)]
        for variant in bench.variants
    ]
    return markdown_tables.table(["variant", *heads], rows, right=heads)


def _plain(text: str) -> str:
    """Text that cannot end a cell or begin markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
