"""`latentc generate`: an artifact draws pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from latentc.params import (
    ACCELERATE,
    COMPUTE,
    BytesType,
    accelerate_option,
    argument_option,
    assignments,
    compute_option,
    device_option,
    drawing_option,
    json_option,
    memory_option,
    strict_option,
    tile_option,
    trust_engines_option,
)

if TYPE_CHECKING:
    from runtimes.meter import Timings
    from runtimes.result import Result

# What --arg does not take -> what does.
OWN = {
    "prompt": "PROMPT",
    "negative_prompt": "--negative",
    "cancel": "Ctrl-C",
    "progress": "latentc.load in Python",
    **{
        name: f"--{name}"
        for name in "image mask strength steps guidance seed size images frames scheduler accelerate tile".split()
    },
}

FILES = ("image", "mask")
"""Of these, what `--arg` takes as files: @FILE."""


@click.command(
    name="generate",
    short_help="Draw pictures with an artifact.",
    epilog="""\b
Examples:
  latentc generate out "a large red circle at the left on a blue background" -o out.png
  latentc generate out --prompts prompts.txt -o "pictures/{index:03}.png" --seed 7
  latentc generate out "a photo of a cat" --image photo.png --strength 0.6 -o out.png
  latentc generate out "a cat runs" --frames 17 --fps 16 -o clip.mp4
  latentc generate out "a cat in the snow" --arg video=@clip.mp4 -o snow.mp4
  latentc generate owner/name@main "a photo of a cat" --require-signature PUBLIC.pem
""",
)
@click.argument("artifact", type=click.Path())
@click.argument("prompts", metavar="PROMPT...", nargs=-1)
@click.option(
    "--output",
    "-o",
    default="out.png",
    show_default=True,
    metavar="FILE",
    help="A .png file; of a video .mp4, .gif, .webp or a folder for its frames (FOLDER/), of sound .wav. {index} "
    "in it is the picture's number from 0, and is added where it is needed.",
)
@click.option(
    "--prompts",
    "prompt_file",
    type=click.File("r", encoding="utf-8-sig"),
    metavar="FILE",
    help="Read prompts from a file, one on each line; - is stdin.",
)
@drawing_option("negative", "What the picture should not show.")
@drawing_option("image", "The picture to start from.")
@drawing_option("mask", "White where --image is to be drawn anew, black where it is to be kept.")
@drawing_option("strength", "How much of --image is drawn anew, up to 1. [default: the pipeline's]")
@drawing_option("steps", "Denoising steps. [default: the pipeline's]")
@drawing_option("guidance", "How closely to follow the prompt. [default: the pipeline's]")
@drawing_option(
    "seed",
    "The noise to start from; one seed gives one picture on every target. [default: a new one, printed]",
)
@drawing_option("size", "Picture size in pixels. [default: the artifact's]")
@drawing_option("task", "Which of the artifact's tasks. [default: what --image and --mask ask for]")
@click.option(
    "--images",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Pictures for each prompt.",
)
@click.option(
    "--frames", type=click.IntRange(1), metavar="N", help="Frames of a video. [default: the artifact's]"
)
@click.option(
    "--fps",
    type=click.FloatRange(0, min_open=True),
    metavar="NUMBER",
    help="Frames a second of the video's file. [default: the pipeline's, or 10]",
)
@drawing_option(
    "scheduler",
    "A scheduler of diffusers, e.g. EulerDiscreteScheduler; its options follow a colon: "
    "DPMSolverMultistepScheduler:use_karras_sigmas=true,solver_order=3.",
)
@device_option
@strict_option
@memory_option(
    "Memory that the process may take, e.g. 6G; see: latentc inspect --memory. [default: what is free]"
)
@tile_option
@click.option(
    "--max-part",
    type=BytesType(),
    metavar="SIZE",
    help="Run larger graphs in parts with so much of their weights, e.g. 1G, one after the other within each call. "
    "[default: those that --memory does not take whole]",
)
@compute_option(COMPUTE)
@accelerate_option(ACCELERATE)
@argument_option(
    "A parameter of the pipeline's own: JSON, plain text, or @FILE for what a picture, a video, a folder of "
    "pictures, a .wav, .npy or JSON file holds. May be repeated."
)
@trust_engines_option
@click.option(
    "--require-signature",
    type=click.Path(),
    metavar="KEY",
    help="Draw only where the artifact is signed with this public key (a PEM file); engines that it covers run.",
)
@json_option("Print files, seeds and timings as JSON.")
def command(
    artifact: str,
    prompts: tuple[str, ...],
    output: str,
    prompt_file: Any,
    negative: str | None,
    image: str | None,
    mask: str | None,
    strength: float | None,
    steps: int | None,
    guidance: float | None,
    seed: int | None,
    size: tuple[int, int] | None,
    task: str | None,
    images: int,
    frames: int | None,
    fps: float | None,
    scheduler: str | None,
    device: str,
    strict: bool,
    memory: int | None,
    tile: str,
    max_part: int | None,
    compute: str,
    accelerate: str,
    arguments: tuple[tuple[str, str], ...],
    require_signature: str | None,
    json_output: bool,
) -> None:
    """Draw what each PROMPT says with the pipeline in ARTIFACT: a folder, or owner/name[@REVISION] of the
    Hugging Face hub, which is fetched once and verified.

    Every prompt is drawn from the same seed; picture number i of one prompt has the seed plus i. The PNG
    files carry what made them as text.
    """
    from pathlib import Path

    from artifacts.hub_artifacts import located
    from artifacts.manifest_reading import read_manifest
    from latentc import destinations, show
    from latentc.progress_bars import bars
    from latentc.warn import Warnings
    from runtimes import media

    texts = assignments(arguments, "--arg")
    for name in texts.keys() & OWN.keys():
        if not (name in FILES and texts[name].startswith("@")):
            raise click.BadParameter(f"'{name}' cannot be given so: use {OWN[name]}.", param_hint="'--arg'")
    if (mask is not None or "mask" in texts) and image is None and "image" not in texts:
        raise click.UsageError("--mask needs --image: the picture that it is a mask of.")
    extra = {name: media.value(text, f"--arg {name}") for name, text in texts.items()}
    wanted = _prompts(prompts, prompt_file, needed=not extra)
    to = destinations.Destination.of(output, len(wanted) * images)
    start = extra.pop("image", None) if image is None else media.picture(Path(image), "RGB")
    holes = extra.pop("mask", None) if mask is None else media.picture(Path(mask), "L")
    if (
        strength is not None
        and start is None
        and not any(media.is_visual(content) for content in extra.values())
    ):
        raise click.UsageError("--strength needs --image: the picture to start from.")
    with bars() as progress:
        folder = located(artifact, progress)
    if task is None:
        task = choose_task(read_manifest(folder.absolute()).pipelines, start is not None, holes is not None)

    from runtimes.pipeline import load

    written: list[dict[str, Any]] = []
    warnings = Warnings()
    with (
        bars() as progress,
        load(
            folder,
            device=device,
            task=task,
            progress=progress,
            compute=compute,
            accelerate=accelerate,
            require_signature=require_signature,
            strict=strict,
            memory=memory,
            tile=tile,
            max_part=max_part,
        ) as pipeline,
    ):
        if pipeline.note:
            click.echo(f"Note: {pipeline.note}", err=True)
        for prompt in wanted:
            result = pipeline.generate(
                prompt,
                negative_prompt=negative,
                image=start,
                mask=holes,
                strength=strength,
                steps=steps,
                guidance=guidance,
                seed=seed,
                size=size,
                images=images,
                frames=frames,
                scheduler=scheduler,
                progress=progress,
                **extra,
            )
            warnings.tell(result.flaws)
            # A seed that was drawn holds for the prompts that follow, as a given one does.
            seed = result.seed

            def about(draw: int, result: Result = result) -> dict[str, Any]:
                return {**result.parameters, "seed": result.seeds[draw], "images": 1}

            for file in destinations.write(result, to, len(written), about, fps):
                own = about(file.draw)
                kinds = [
                    f.kind for f in result.flaws if set(file.images) & {*f.images} or f.kind == "not finite"
                ]
                written.append(
                    {"file": str(file.path), **own, "timings": _timings(result.timings), "flaws": kinds}
                )
                if not json_output:
                    calls = "" if result.calls is None else f", {result.calls} calls"
                    click.echo(f"{file.path} (seed {own['seed']}{calls})")
    if json_output:
        show.as_json(written)


def _prompts(texts: tuple[str, ...], file: Any, needed: bool) -> list[str | None]:
    if texts and file is not None:
        raise click.UsageError("Prompts come from the command line or from --prompts, not from both.")
    prompts: list[str | None] = [*texts] if file is None else _lines(file)
    if file is not None and not prompts:
        raise click.UsageError(f"{file.name} holds no prompt.")
    if not prompts and needed:
        raise click.UsageError("generate needs a PROMPT, or --prompts FILE.")
    return prompts or [None]


def _lines(file: Any) -> list[str | None]:
    try:
        return [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"{file.name} is not UTF-8 text: {error.reason}, byte 0x{error.object[error.start]:02x}. Save it as UTF-8."
        ) from None


def choose_task(tasks: Mapping[str, str], image: bool, mask: bool) -> str | None:
    """The artifact's task that these inputs ask for; None for its first, where it has no such task."""
    wanted = "inpaint" if mask else "image-to-image" if image else "text-to-image"
    return wanted if wanted in tasks else None


def _timings(timings: Timings) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(timings)
