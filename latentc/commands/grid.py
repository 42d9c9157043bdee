"""`latentc grid`: one picture over up to three options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from latentc.params import (
    ACCELERATE,
    COMPUTE,
    accelerate_option,
    argument_option,
    assignments,
    compute_option,
    device_option,
    drawing_option,
    strict_option,
    trust_engines_option,
)

if TYPE_CHECKING:
    from latentc.warn import Warnings
    from runtimes.pipeline import Pipeline


@click.command(
    name="grid",
    short_help="Draw one picture over up to three options.",
    epilog="""\b
Examples:
  latentc grid out --prompt "a large red circle" --x steps=4,8,20 --y guidance=1,4,7
  latentc grid --prompt "a cat" --x artifact=fp16,int8 --y seed=0,1,2 -o cats
  latentc grid out --prompt "a cat" --x steps=8,20 --y seed=0,1 --z scheduler=DDIMScheduler,PNDMScheduler
""",
)
@click.argument("artifact", required=False, type=click.Path())
@click.option(
    "--x", "x", metavar="OPTION=VALUES", required=True, help="Columns: values with commas between them."
)
@click.option("--y", "y", metavar="OPTION=VALUES", help="Rows.")
@click.option("--z", "z", metavar="OPTION=VALUES", help="Panels.")
@click.option(
    "--output",
    "-o",
    default="grid",
    show_default=True,
    metavar="DIR",
    help="Where grid.png, grid.csv and cells/ go.",
)
@click.option("--prompt", metavar="TEXT", help="What to draw.")
@drawing_option("negative", "What the picture should not show.")
@drawing_option("image", "The picture to start from.")
@drawing_option("mask", "White where --image is to be drawn anew.")
@drawing_option("strength", "How much of --image.")
@drawing_option("steps", "Denoising steps.")
@drawing_option("guidance", "How closely to follow the prompt.")
@drawing_option("seed", "The noise to start from.", default=0, show_default=True)
@drawing_option("size", "Picture size in pixels.")
@drawing_option("scheduler", "A scheduler of diffusers and its options, as generate takes them.")
@drawing_option("task", "Which of the artifacts' tasks. [default: what the inputs ask for]")
@device_option
@strict_option
@compute_option(COMPUTE)
@accelerate_option(ACCELERATE)
@argument_option("A parameter of the pipeline's own. May be repeated.")
@trust_engines_option
@click.option(
    "--cell",
    type=click.IntRange(16, 4096),
    default=256,
    show_default=True,
    metavar="PIXELS",
    help="Longest side of a picture in the sheet.",
)
def command(
    artifact: str | None,
    x: str,
    y: str | None,
    z: str | None,
    output: str,
    prompt: str | None,
    negative: str | None,
    image: str | None,
    mask: str | None,
    strength: float | None,
    steps: int | None,
    guidance: float | None,
    seed: int,
    size: tuple[int, int] | None,
    scheduler: str | None,
    task: str | None,
    device: str,
    strict: bool,
    compute: str,
    accelerate: str,
    arguments: tuple[tuple[str, str], ...],
    cell: int,
) -> None:
    """Draw with ARTIFACT every combination of the axes' values, and put them on one labelled sheet.

    An axis is any option of latentc generate (artifact, device, compute, accelerate, prompt, negative, steps,
    guidance, seed, size, scheduler, strength) or any parameter of the pipeline's own. Values that hold commas are
    written as a JSON list: --x 'prompt=["a, b", "c"]'. Run again, it draws only what is missing.
    """
    from pathlib import Path

    from artifacts.manifest_reading import read_manifest
    from bench import picture_grid as grids
    from latentc import pictures
    from latentc.progress_bars import bars
    from latentc.warn import Warnings
    from runtimes import media
    from runtimes.requested_task import choose_task

    if mask is not None and image is None:
        raise click.UsageError("--mask needs --image: the picture that it is a mask of.")
    base: dict[str, Any] = {
        "artifact": artifact,
        "device": device,
        "compute": compute,
        # The default is left out: pictures that are there already were drawn without it.
        "accelerate": None if accelerate == "auto" else accelerate,
        "prompt": prompt,
        "negative_prompt": negative,
        "image": None if image is None else media.picture(Path(image), "RGB"),
        "mask": None if mask is None else media.picture(Path(mask), "L"),
        "strength": strength,
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
        "size": None if size is None else "{}x{}".format(*size),
        "scheduler": scheduler,
    }
    for name, text in assignments(arguments, "--arg").items():
        if name in base or name in grids.OBJECTS:
            option = "--negative" if name == "negative_prompt" else f"--{name}"
            instead = f": use {option}" if name in base else ""
            raise click.BadParameter(f"'{name}' cannot be given so{instead}.", param_hint="'--arg'")
        base[name] = media.value(text, f"--arg {name}")
    warnings = Warnings()
    wanted = grids.Grid(tuple(grids.Axis.parse(text) for text in (x, y, z) if text is not None), base)

    def load(path: Path, where: str, kind: str) -> grids.Drawer:
        from runtimes.pipeline import load as open_pipeline

        tasks = read_manifest(path).pipelines
        chosen = task or choose_task(tasks, image is not None, mask is not None)
        pipeline = open_pipeline(
            path, device=where, task=chosen, progress=progress, compute=kind, strict=strict
        )
        return _Telling(pipeline, warnings)

    if z is not None and y is None:
        raise click.UsageError("--z needs --y.")
    with bars() as progress:
        cells = grids.run(wanted, Path(output), load, pictures.write, progress, cell)
    old = sum(drawn.resumed for drawn in cells)
    click.echo(f"{Path(output) / grids.SHEET} ({len(cells)} pictures, {old} of them were there already)")
    click.echo(str(Path(output) / grids.TABLE))


class _Telling:
    """A pipeline whose flawed pictures are warned of as they are drawn."""

    def __init__(self, pipeline: Pipeline, warnings: Warnings) -> None:
        self._pipeline = pipeline
        self._warnings = warnings

    def generate(self, /, prompt: str | None = None, **options: Any) -> Any:
        result = self._pipeline.generate(prompt, **options)
        self._warnings.tell(result.flaws)
        return result

    def close(self) -> None:
        self._pipeline.close()
