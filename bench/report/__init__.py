"""The report of a bench: one HTML file that needs nothing else, the same as Markdown, and the record."""

from __future__ import annotations

from pathlib import Path

from artifacts.errors import LatentcError
from bench.interleaved_run import Outcome
from bench.report import html, markdown

HTML, MARKDOWN, JSON = "report.html", "report.md", "bench.json"


def write(outcome: Outcome, folder: Path) -> tuple[Path, ...]:
    """Writes report.html, report.md and bench.json into `folder`, which is made where it is missing.

    Returns:
        The files.

    Raises:
        LatentcError: they cannot be written.
    """
    texts = {
        HTML: html.page(outcome),
        MARKDOWN: markdown.page(outcome.bench),
        JSON: outcome.bench.model_dump_json(indent=2) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise LatentcError(f"{folder} cannot be written: {error.strerror or error}.") from None
    return tuple(folder / name for name in texts)


__all__ = ["HTML", "JSON", "MARKDOWN", "write"]
