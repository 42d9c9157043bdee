"""`latentc bench`: how fast artifacts are, and how near their pictures are to PyTorch's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from latentc.params import (
    ACCELERATE,
    COMPUTE,
    accelerate_option,
    compute_option,
    device_option,
    drawing_option,
    strict_option,
    trust_engines_option,
)

if TYPE_CHECKING:
    from bench.gates import Fall
    from bench.record import Bench


@click.command(
    name="bench",
    short_help="Measure speed, memory and quality against PyTorch.",
    epilog="""\b
Examples:
  latentc bench out --reference shapes
  latentc bench fp16 int8 --reference ./sd15 --prompts prompts.txt --seeds 1 --report report
  latentc bench out --reference shapes --baseline bench.json --fail-if "psnr<30" --fail-if "step_ms>1.05x"
""",
)
@click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--reference",
    metavar="MODEL",
    help="What the artifacts were compiled from, to be run in PyTorch in fp32; or another artifact of it.",
)
@click.option(
    "--prompts",
    "prompt_file",
    type=click.Path(),
    metavar="FILE",
    help="One prompt on each line. [default: eight general ones; for shapes its own]",
)
@drawing_option("steps", "Denoising steps.", default=20, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(1, 10_000),
    default=4,
    show_default=True,
    metavar="N",
    help="Pictures of each prompt.",
)
@drawing_option(
    "guidance", "How closely to follow the prompt. [default: the pipeline's; with the prompts of shapes, 3]"
)
@drawing_option("size", "Picture size in pixels. [default: the artifact's]")
@drawing_option("task", "Which of the artifacts' tasks. [default: text-to-image]")
@device_option
@strict_option
@compute_option(COMPUTE)
@accelerate_option(f"{ACCELERATE} A reference makes all its calls.")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Threads of each inference. [default: each chooses]",
)
@click.option(
    "--report",
    metavar="DIR",
    help="Write report.html (one file, with the pictures), report.md and bench.json.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write the record as JSON; - is stdout.")
@click.option(
    "--baseline",
    type=click.Path(),
    metavar="FILE",
    help="An earlier record: exit with 1 where this one falls short of it.",
)
@trust_engines_option
@click.option(
    "--fail-if",
    "fail_if",
    multiple=True,
    metavar="GATE",
    help="Exit with 1 where this holds, e.g. psnr<30, or step_ms>1.05x: 1.05 times the baseline's (without "
    "one, the reference's). May be repeated.  [default with --baseline: the gates in docs/bench.md]",
)
def command(
    artifacts: tuple[str, ...],
    reference: str | None,
    prompt_file: str | None,
    steps: int,
    seeds: int,
    guidance: float | None,
    size: tuple[int, int] | None,
    task: str | None,
    device: str,
    strict: bool,
    compute: str,
    accelerate: str,
    threads: int | None,
    report: str | None,
    json_file: str | None,
    baseline: str | None,
    fail_if: tuple[str, ...],
) -> None:
    """Measure each ARTIFACT, and the reference, on the same prompts and seeds.

    Every one runs in a process of its own. They draw in turn, so that a busy machine is equally
    unfair to all; the first picture of each is not counted.
    """
    import sys
    from pathlib import Path

    from bench import gates, record
    from bench import report as reports
    from latentc.api import measuring
    from latentc.progress_bars import bars

    wanted = [gates.parse(text) for text in fail_if]
    before = None if baseline is None else record.read(Path(baseline))
    if before is not None and not wanted:
        wanted = [gates.parse(text) for text in gates.DEFAULT_GATES]
    if json_file not in (None, "-") and not Path(str(json_file)).absolute().parent.is_dir():
        raise click.BadParameter(f"the folder of '{json_file}' does not exist.", param_hint="'--json'")
    with bars() as progress:
        outcome = measuring.bench(
            artifacts,
            reference=reference,
            prompts=prompt_file,
            steps=steps,
            seeds=seeds,
            guidance=guidance,
            size=size,
            task=task,
            device=device,
            strict=strict or None,
            compute=compute,
            accelerate=accelerate,
            threads=threads,
            progress=progress,
            command=["latentc", *sys.argv[1:]],
        )
    # What was measured first: a gate that cannot be taken must not cost it.
    written = () if report is None else reports.write(outcome, Path(report))
    if json_file == "-":
        click.echo(outcome.bench.model_dump_json(indent=2))
    else:
        if json_file is not None:
            record.write(outcome.bench, Path(json_file))
        _print(outcome.bench)
    for file in written:
        click.echo(str(file), err=json_file == "-")
    falls = gates.check(outcome.bench, wanted, before)
    if wanted:
        _gates(falls, len(wanted), baseline, err=json_file == "-")
    raise SystemExit(1 if falls else 0)


def _print(bench: Bench) -> None:
    from bench.report import tables
    from latentc import show

    click.echo(
        f"{tables.counts(bench)}; {bench.environment.processor}, {bench.environment.cores} cores; medians.\n"
    )
    for columns in (tables.SHORT_SPEED, tables.SHORT_QUALITY):
        shown = tables.used(columns, bench)
        heads = [column.head for column in shown]
        rows = [(v.name, *(column.cell(v) for column in shown)) for v in bench.variants]
        show.table(("variant", *heads), rows, right=heads)
        click.echo()
    for note in [*tables.failures(bench), *tables.notes(bench)]:
        click.echo(note)


def _gates(falls: tuple[Fall, ...], count: int, baseline: str | None, err: bool) -> None:
    from latentc import show

    if not falls:
        click.echo(f"\nAll {count} gates hold.", err=err)
        return
    against = "reference" if baseline is None else "baseline"
    rows = [
        (
            fall.variant,
            fall.gate.text,
            fall.reason or "not measured" if fall.measured is None else _fall_figure(fall),
            "-" if fall.against is None else f"{fall.against:.6g}",
        )
        for fall in falls
    ]
    if err:
        for row in rows:
            click.echo("Gate: " + ", ".join(row), err=True)
        return
    click.echo("\nFell short:")
    show.table(("variant", "fails if", "found", against), rows, right=(against,))


def _fall_figure(fall: Fall) -> str:
    from bench.gates import METRICS

    metric = METRICS[fall.gate.metric]
    value = "-" if fall.value is None else f"{fall.value:.{metric.digits}f} {metric.unit}".strip()
    return f"{fall.measured:.3f}x ({value})" if fall.gate.times else value
