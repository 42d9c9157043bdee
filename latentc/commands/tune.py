"""`latentc tune`: the fastest way to draw whose pictures stay near."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from latentc.params import (
    COMPUTE,
    CountsType,
    FiniteType,
    compute_option,
    device_option,
    drawing_option,
    json_option,
)

if TYPE_CHECKING:
    from artifacts.manifest import Manifest


@click.command(
    name="tune",
    short_help="Find the fastest way to draw that keeps pictures near.",
    epilog="""\b
Examples:
  latentc tune out
  latentc tune out --min-psnr 40 --prompts prompts.txt --steps 20,30
  latentc tune out --prompts prompts.txt --guidance 5
  latentc tune out --scheduler EulerDiscreteScheduler --scheduler DPMSolverMultistepScheduler
""",
)
@click.argument("artifact", type=click.Path())
@click.option(
    "--min-psnr",
    type=FiniteType(min=0, min_open=True),
    default=45.0,
    show_default=True,
    metavar="DB",
    help="How near pictures stay to the artifact's own with all calls made, in the mean; the worst may be 6 dB "
    "further off.",
)
@click.option(
    "--prompts",
    "prompt_file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Prompts, one on each line: every second is tuned on, the others are verified on. [default: the model's "
    "own, or general ones]",
)
@click.option(
    "--steps",
    type=CountsType(),
    default="20,50",
    show_default=True,
    metavar="N,N",
    help="Numbers of steps, all of which hold it.",
)
@click.option(
    "--scheduler",
    "schedulers",
    multiple=True,
    metavar="CLASS",
    help="A scheduler of diffusers and its options, as generate takes them; may be repeated, and all hold it. "
    "[default: the model's own]",
)
@drawing_option(
    "guidance",
    "How closely the pictures follow their prompts; at more, --accelerate auto makes all calls. [default: the "
    "pipeline's; with the model's own prompts, what these are drawn with]",
)
@click.option(
    "--only",
    "ways",
    multiple=True,
    type=click.Choice(["compute", "threads", "forecast"]),
    help="Choose only this, and leave the rest as it is by default; may be repeated. [default: all]",
)
@device_option
@compute_option(COMPUTE)
@json_option("Print what was found as JSON.")
def command(
    artifact: str,
    min_psnr: float,
    prompt_file: str | None,
    steps: tuple[int, ...],
    schedulers: tuple[str, ...],
    guidance: float | None,
    ways: tuple[str, ...],
    device: str,
    compute: str,
    json_output: bool,
) -> None:
    """Find the fastest way to draw with ARTIFACT whose pictures stay as near to those it draws by default as asked.

    A denoiser's output changes smoothly from step to step, so that some of its calls can be forecast; a device may
    be faster in another type, or with other threads. Each is tried alone, then all together, in the order of what
    they gain for what they lose; what holds is verified on prompts that it was not chosen by, and kept in the
    artifact, where --accelerate auto and --compute auto find it, with a table of what was tried. Exits with 1 where
    nothing faster holds. Ctrl-C keeps the best so far.
    """
    from pathlib import Path

    from artifacts.manifest_reading import read_manifest
    from latentc import show
    from latentc.api import tuning
    from latentc.progress_bars import bars

    try:
        with bars() as progress:
            tuned = tuning.tune(
                artifact,
                min_psnr=min_psnr,
                prompts=prompt_file,
                steps=steps,
                scheduler=schedulers or None,
                guidance=guidance,
                only=ways or None,
                device=device,
                compute=compute,
                progress=progress,
            )
    except KeyboardInterrupt:
        # Kept by now, if anything has held.
        print_tuned(read_manifest(Path(artifact).absolute()), err=True)
        raise
    if json_output:
        forecast, speed = tuned.manifest.forecast, tuned.manifest.speed
        show.as_json(
            {
                "artifact": str(tuned.root),
                **({} if forecast is None else forecast.model_dump(mode="json")),
                "speed": None if speed is None else speed.model_dump(mode="json"),
            }
        )
    else:
        print_tuned(tuned.manifest)


def print_tuned(manifest: Manifest, err: bool = False) -> None:
    """What the artifact is tuned to, and what was tried."""
    from latentc import evidence, show

    for line in (*evidence.forecast_lines(manifest), *evidence.speed_lines(manifest)):
        click.echo(show.plain(line), err=err)
    if not err and (rows := evidence.trials(manifest)):
        show.table(evidence.TRIALS, rows, right=evidence.TRIALS[2:6])
