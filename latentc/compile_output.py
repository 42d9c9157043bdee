"""What `latentc compile` prints: its plan as a table, and what it published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from artifacts.verification import Artifact
    from compiler.plan import Plan


def print_plan(plan: Plan) -> None:
    """The plan as a table: what will be written, and what it takes."""
    from latentc import show

    show.table(
        ("component", "method", "folder", "precision", "parameters", "to write", "shapes"),
        (
            (
                row.component,
                row.method,
                row.folder,
                f"{row.precision}, {row.scheme}" if row.scheme else row.precision,
                show.number(row.parameters),
                show.size(row.bytes),
                row.shapes,
            )
            for row in plan.components
        ),
        right=("parameters", "to write"),
    )
    click.echo(
        f"To write: {show.size(plan.total_bytes)} (free: {show.size(plan.free_bytes)}). "
        f"Peak memory: about {show.size(plan.peak_memory)}."
    )
    for note in plan.notes:
        click.echo(show.plain(note))
    click.echo()


def print_result(artifact: Artifact) -> None:
    from latentc import show
    from latentc.evidence import (
        TRIALS,
        approximation_line,
        calibration_line,
        forecast_lines,
        left_out_line,
        pictures_line,
        pipeline_line,
        quantized_line,
        speed_lines,
        summary,
        trials,
    )

    manifest = artifact.manifest
    total = sum(file.size for file in manifest.files)
    click.echo(f"{artifact.root}: {show.size(total)} for {manifest.target} in {manifest.precision}.")
    if any(graph.weights for graph in manifest.graphs):
        click.echo(quantized_line(manifest))
    for measured in filter(None, map(calibration_line, manifest.graphs)):
        click.echo(show.plain(measured))
    for graph in manifest.graphs:
        if graph.approximations:
            click.echo(show.plain(approximation_line(graph)))
    for pictures in manifest.pictures:
        click.echo(show.plain(pictures_line(pictures)))
    for line in (*forecast_lines(manifest), *speed_lines(manifest)):
        click.echo(show.plain(line))
    if rows := trials(manifest):
        show.table(TRIALS, rows, right=TRIALS[2:6])
    click.echo(summary(manifest))
    for drawn in manifest.pipeline_evidence:
        click.echo(show.plain(pipeline_line(drawn)))
    for part in manifest.left_out:
        click.echo(show.plain(left_out_line(part)))
