"""`latentc tune`: how far steps that are forecast may be off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from latentc.params import COMPUTE, CountsType, compute_option, device_option, json_option

if TYPE_CHECKING:
    from artifacts.manifest import Manifest


@click.command(
    name="tune",
    short_help="Find how many steps an artifact can do without.",
    epilog="""\b
Examples:
  latentc tune out
  latentc tune out --min-psnr 40 --prompts prompts.txt --steps 20,30
  latentc tune out --scheduler EulerDiscreteScheduler --scheduler DPMSolverMultistepScheduler
""",
)
@click.argument("artifact", type=click.Path())
@click.option(
    "--min-psnr",
    type=click.FloatRange(min=0, min_open=True),
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
@device_option
@compute_option(COMPUTE)
@json_option("Print what was found as JSON.")
def command(
    artifact: str,
    min_psnr: float,
    prompt_file: str | None,
    steps: tuple[int, ...],
    schedulers: tuple[str, ...],
    device: str,
    compute: str,
    json_output: bool,
) -> None:
    """Find the largest error of forecast steps with which ARTIFACT's pictures stay as near as asked.

    A denoiser's output changes smoothly from step to step, so that some of its calls can be forecast. Pictures
    with and without forecasts are drawn and compared; what holds is verified on prompts that it was not tuned on,
    and kept in the artifact, where --accelerate auto finds it. Exits with 1 where nothing holds. Ctrl-C keeps the
    best so far.
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
                device=device,
                compute=compute,
                progress=progress,
            )
    except KeyboardInterrupt:
        # Kept by now, if anything has held.
        print_forecast(read_manifest(Path(artifact).absolute()), err=True)
        raise
    if json_output:
        forecast = tuned.manifest.forecast
        assert forecast is not None
        show.as_json({"artifact": str(tuned.root), **forecast.model_dump(mode="json")})
    else:
        print_forecast(tuned.manifest)


def print_forecast(manifest: Manifest, err: bool = False) -> None:
    """What the artifact is tuned to, a line for each scheduler and number of steps."""
    from latentc import show
    from latentc.evidence import forecast_lines

    for line in forecast_lines(manifest):
        click.echo(show.plain(line), err=err)
