"""The page of docs/peers.md: the tables of a bench, who is the fastest on each runtime, and where it was measured."""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.record import Bench
from bench.report import markdown, tables

PAGE = Path(__file__).resolve().parents[3] / "docs" / "peers.md"

_NOT_VERSIONS = {"target", "precision", "compute"}
"""What `Variant.about` holds beside versions."""


def fastest(benchmark: Bench) -> str:
    """Whose step is the fastest on each runtime, a line each; empty where ours and a peer's are not both there."""
    lines = []
    for ours in benchmark.variants:
        if ours.kind != "artifact" or ours.speed is None or ours.speed.step_ms is None:
            continue
        runtime, step = ours.about["target"], ours.speed.step_ms.median
        others = {
            v.name: v.speed.step_ms.median
            for v in benchmark.variants
            if v.kind == "peer" and v.about.get("target") == runtime and v.speed and v.speed.step_ms
        }
        if not others:
            continue
        name, best = min(others.items(), key=lambda item: item[1])
        who, time = (ours.name, step) if step <= best else (name, best)
        lines.append(
            f"- The fastest step on {runtime} is that of {who}, {time:.4g} ms; {ours.name} takes {step / best:.2f} of "
            f"the time of {name}, the fastest of the others."
        )
    return "\n".join(lines)


def page(benchmark: Bench, model: str, waited: str = "") -> str:
    """The table as a page of the docs.

    Args:
        waited: the table of `starts`.
    """
    parts = [
        "# Beside other projects",
        "<!-- Written by the command at its end. -->",
        f"The model `{model}` on one machine, everything made from the same files, drawn from the same seeds, in turn; "
        "what each column means is in [bench.md](bench.md). `made in` is each project's own export or compile, ours "
        "without the check of its numbers. Each project, ours too, runs with its own defaults, in an environment of "
        "its own; `computes in` is the type that it chose.",
        markdown.table(benchmark, tables.used(tables.SPEED, benchmark)),
        fastest(benchmark),
        waited
        and "From the start of a process to the end of the first step, of a script with the lines of each project's "
        "own README, imports among them; medians. Cold: nothing compiled in its cache, its files read from disk.",
        waited,
        markdown.table(benchmark, tables.used(tables.QUALITY, benchmark)),
        "\n".join(f"- {note}" for note in [*tables.failures(benchmark), *tables.notes(benchmark)]),
        "## Where",
        "\n".join(f"- {name}: {value}" for name, value in tables.environment(benchmark)),
        "- versions: "
        + "; ".join(
            f"{v.name}: " + ", ".join(f"{k} {x}" for k, x in v.about.items() if k not in _NOT_VERSIONS)
            for v in benchmark.variants
            if set(v.about) - _NOT_VERSIONS
        ),
        f"```sh\n{shlex.join(benchmark.command)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
