"""`latentc graph`: whether a model's exported graphs are what they were, and what changed where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compiler.capture.tasks import TASKS
from latentc.params import (
    Sizes,
    SizesType,
    Span,
    SpanType,
    argument_option,
    assignments,
    json_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from compiler.snapshot.diff import Change
    from compiler.snapshot.prints import GraphPrint, Snapshot

ALLOW = click.option(
    "--allow",
    multiple=True,
    type=click.Choice(["names", "order", "metadata"]),
    help="A class of change that is no failure: modules and weights under other names, inputs or outputs in "
    "another order, versions of the tools. May be repeated.",
)
FORMAT = click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="How to print changes; github: annotations of a workflow.",
)


@click.group(
    name="graph",
    short_help="Snapshot a model's graphs, and say what changed.",
    epilog="""\b
Examples:
  latentc graph snapshot ./sd15 -o sd15.graph
  latentc graph check ./sd15 --golden sd15.graph --allow metadata
""",
)
def command() -> None:
    """Watch the graphs that a model is exported to. No weight is read: a folder with configs alone will do."""


@command.command(
    epilog="""\b
Examples:
  latentc graph snapshot ./sd15 -o sd15.graph
  latentc graph snapshot ./sdxl -o sdxl.graph --size 512..1024 --component unet
""",
)
@click.argument("model", metavar="MODEL|CONFIG")
@click.option(
    "--output", "-o", "out", required=True, type=click.Path(), metavar="FILE", help="What to write."
)
@click.option(
    "--target", "-t", "targets", multiple=True, metavar="NAME",
    help="Also the graph after this target's passes; may be repeated. [default: every target]",
)  # fmt: skip
@click.option(
    "--component", "components", multiple=True, metavar="NAME",
    help="Only this component; may be repeated. [default: all]",
)  # fmt: skip
@click.option(
    "--task",
    "tasks",
    multiple=True,
    type=click.Choice(TASKS),
    help="As in latentc compile.",
)
@click.option("--size", type=SizesType(), metavar="WxH|MIN..MAX", help="As in latentc compile.")
@click.option("--batch", type=SpanType(), metavar="N|MIN..MAX", help="As in latentc compile.")
@argument_option("As in latentc compile.")
def snapshot(
    model: str,
    out: str,
    targets: tuple[str, ...],
    components: tuple[str, ...],
    tasks: tuple[str, ...],
    size: Sizes | None,
    batch: Span | None,
    arguments: tuple[tuple[str, str], ...],
) -> None:
    """Write the fingerprint of every graph of MODEL to FILE.

    MODEL is a diffusers folder, a hub id or a built-in name; a folder with configs and without weights is enough.
    """
    from latentc.api.snapshots import graph_snapshot
    from latentc.progress_bars import bars

    with bars() as progress:
        taken = graph_snapshot(
            model,
            out,
            targets=targets or None,
            components=components,
            task=tasks,
            size=size,
            batch=batch,
            arguments=assignments(arguments, "--arg"),
            progress=progress,
        )
    click.echo(f"wrote {out}", err=True)
    _tell_graphs(taken)


@command.command(
    epilog="""\b
Example:
  latentc graph diff before.graph after.graph
""",
)
@click.argument("before", metavar="A", type=click.Path())
@click.argument("after", metavar="B", type=click.Path())
@ALLOW
@FORMAT
def diff(before: str, after: str, allow: tuple[str, ...], style: str) -> None:
    """Say what changed from the snapshot A to the snapshot B; exit 1 when something did."""
    from pathlib import Path

    from compiler.snapshot.diff import allowed
    from compiler.snapshot.diff import diff as compare
    from compiler.snapshot.golden_snapshot import read

    changes = compare(read(Path(before)), read(Path(after)))
    left = allowed(changes, allow)
    _conclude(left, [change for change in changes if change not in left], style, after)
    if left:
        raise SystemExit(1)


@command.command(
    epilog="""\b
Examples:
  latentc graph check ./sd15 --golden sd15.graph
  latentc graph check ./sd15 --golden golden/ --allow metadata --format github
  latentc graph check ./sd15 --golden sd15.graph --update
""",
)
@click.argument("model", metavar="MODEL|CONFIG")
@click.option(
    "--golden", required=True, type=click.Path(), metavar="FILE|DIR",
    help="The snapshot to hold MODEL to; in a folder, the one with MODEL's own name.",
)  # fmt: skip
@click.option("--update", is_flag=True, help="Accept what changed: write it to the golden file.")
@ALLOW
@FORMAT
def check(model: str, golden: str, update: bool, allow: tuple[str, ...], style: str) -> None:
    """Snapshot MODEL again, with the options of the golden file, and say what changed; exit 1 when something did."""
    from latentc.api.snapshots import graph_check
    from latentc.progress_bars import bars

    with bars() as progress:
        comparison = graph_check(model, golden, update=update, allow=allow, progress=progress)
    if comparison.updated:
        click.echo(f"wrote {comparison.golden}", err=True)
    _conclude(comparison.changes, comparison.allowed, style, comparison.golden.as_posix())
    if not comparison.ok:
        raise SystemExit(1)


def _tell_graphs(taken: Snapshot) -> None:
    from latentc import show

    show.table(
        ("graph", "form", "operators", "parameters", "FLOPs", "bytes written"),
        (
            (
                graph.name,
                graph.form,
                sum(graph.op_types.values()),
                show.number(graph.cost.parameters),
                show.number(graph.cost.flops),
                show.size(graph.cost.bytes),
            )
            for graph in taken.graphs
        ),
        right=("operators", "parameters", "FLOPs", "bytes written"),
    )
    _tell_unknown(taken.graphs)


def _tell_unknown(graphs: Iterable[GraphPrint]) -> None:
    """What a table's figures leave out."""
    for graph in graphs:
        if graph.cost.unknown:
            click.echo(
                f"{graph.key}: at least that; the sizes of {graph.cost.unknown} operators' results do not follow "
                "from those of the inputs."
            )


def _conclude(changes: Sequence[Change], allowed: Sequence[Change], style: str, file: str) -> None:
    """Prints what changed, and how much of it is allowed."""
    from compiler.snapshot import report
    from latentc import show

    if style == "json":
        show.as_json(report.as_data(changes, allowed))
    else:
        for line in report.FORMATS[style](changes, len(allowed), file).splitlines():
            click.echo(show.plain(line))


@command.command(
    epilog="""\b
Examples:
  latentc graph show sd15.graph
  latentc graph show ./sdxl --graph unet --form openvino --depth 3
""",
)
@click.argument("source", metavar="FILE|MODEL")
@click.option("--graph", "name", metavar="NAME", help="Only this graph. [default: all]")
@click.option(
    "--form",
    default="fp32",
    show_default=True,
    help="Which form of the graphs: fp32, before any target, or a target's name.",
)
@click.option(
    "--depth", type=click.IntRange(0, 12), default=1, show_default=True, help="Levels of modules to list."
)
@json_option("Print the table as JSON.")
def show(source: str, name: str | None, form: str, depth: int, json_output: bool) -> None:
    """Show graphs by module: operators, patterns, FLOPs, parameters, and bytes written.

    Of a snapshot, or of a model, which is then snapshot first.
    """
    from pathlib import Path

    from artifacts.errors import UsageError
    from compiler.snapshot.golden_snapshot import read
    from latentc import show as printing
    from latentc.api.snapshots import graph_snapshot
    from latentc.progress_bars import bars

    if Path(source).is_file():
        taken = read(Path(source))
    else:
        with bars() as progress:
            taken = graph_snapshot(source, progress=progress)
    graphs = [g for g in taken.graphs if form in (g.form, *g.targets) and name in (None, g.name)]
    if not graphs:
        available = ", ".join(g.key for g in taken.graphs)
        which = f"graph '{name}'" if name else "graph"
        raise UsageError(
            f"{source} has no {which} in the form '{form}' (there are: {available}).",
            "Name one of them: --graph NAME --form FORM" if taken.graphs else "",
        )
    if json_output:
        printing.as_json({g.key: _rows(g, depth) for g in graphs})
        return
    for graph in graphs:
        _print_tree(graph, depth)


def _rows(graph: GraphPrint, depth: int) -> list[dict[str, object]]:
    from compiler.snapshot.module_tree import tree

    return [
        {
            "module": branch.path,
            "level": level,
            "label": branch.label,
            "operators": dict(sorted(branch.ops.items())),
            "patterns": dict(sorted(branch.patterns.items())),
            "flops": branch.cost.flops,
            "parameters": branch.cost.parameters,
            "bytes": branch.cost.bytes,
            "unknown": branch.cost.unknown,
        }
        for level, branch in tree(graph).walk(depth)
    ]


def _print_tree(graph: GraphPrint, depth: int) -> None:
    from compiler.snapshot.module_tree import tree
    from latentc import show as printing

    sizes = ", ".join(f"{name} {size}" for name, size in sorted(graph.sizes.items()))
    click.echo(printing.plain(f"{graph.key}: {graph.source}" + (f", at {sizes}" if sizes else "")))
    whole = max(graph.cost.flops, 1)
    printing.table(
        ("module", "operators", "patterns", "FLOPs", "share", "parameters", "bytes written"),
        (
            (
                "  " * level + branch.label,
                sum(branch.ops.values()),
                ", ".join(f"{n} {p}" for p, n in sorted(branch.patterns.items())),
                printing.number(branch.cost.flops),
                f"{100 * branch.cost.flops / whole:.1f} %",
                printing.number(branch.cost.parameters),
                printing.size(branch.cost.bytes),
            )
            for level, branch in tree(graph).walk(depth)
        ),
        right=("operators", "FLOPs", "share", "parameters", "bytes written"),
    )
    _tell_unknown([graph])
