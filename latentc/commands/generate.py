"""`latentc generate`: an artifact draws pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from latentc.params import (
    ACCELERATE,
    COMPUTE,
    BytesType,
    FiniteType,
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
    from artifacts.manifest import WeightRecord
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
        for name in "image mask strength steps guidance seed size images frames scheduler accelerate weighted "
        "tile".split()
    },
}

FILES = ("image", "mask")
"""Of these, what `--arg` takes as files: @FILE, or a list of such."""


@click.command(
    name="generate",
    short_help="Draw pictures with an artifact.",
    epilog="""\b
Examples:
  latentc generate out "a large red circle at the left on a blue background" -o out.png
  latentc generate out --prompts prompts.txt -o "pictures/{index:03}.png" --seed 7
  latentc generate out "a photo of a cat" --image photo.png --strength 0.6 -o out.png
  latentc generate out "a (large)1.3 circle, red++ on blue-" --weighted
  latentc generate out "a cat runs" --frames 17 --fps 16 -o clip.mp4
  latentc generate out "a cat in the snow" --arg video=@clip.mp4 -o snow.mp4
  latentc generate out "a photo of a cat" --lora style.safetensors:0.8
  latentc generate owner/name@main "a photo of a cat" --require-signature PUBLIC.pem
""",
)
@click.argument("artifact", type=click.Path())
@click.argument("prompts", metavar="[PROMPT]...", nargs=-1)
@click.option(
    "--output",
    "-o",
    default="out.png",
    show_default=True,
    metavar="FILE",
    help="A .png file; of a video .mp4, .gif, .webp or a folder for its frames (FOLDER/), of sound .wav, of "
    "other numbers (depth, latents) .npz. {index} in it is the picture's number from 0, and is added where it is "
    "needed.",
)
@click.option(
    "--prompts",
    "prompt_file",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="Read prompts from a file, one on each line; - is stdin.",
)
@drawing_option("negative", "What the picture should not show.")
@click.option(
    "--weighted",
    is_flag=True,
    help="Words of the prompts have weights, as compel reads them: (red)1.3, red++, blue-.",
)
@drawing_option("image", "The picture to start from.")
@drawing_option("mask", "White where --image is to be drawn anew, black where it is to be kept.")
@click.option(
    "--control-image",
    "control_images",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="What a ControlNet or a T2I-Adapter follows; one for each of several, in the order of the compile.",
)
@click.option(
    "--ip-adapter-image",
    "ip_adapter_images",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="The picture that an IP-Adapter looks at; one for each of several, in the order of the compile.",
)
@click.option(
    "--ip-adapter-scale",
    "ip_adapter_scales",
    multiple=True,
    type=FiniteType(),
    metavar="NUMBER",
    help="How much of it is taken over; one for all, or one for each. [default: 1]",
)
@click.option(
    "--embedding",
    "embeddings",
    multiple=True,
    metavar="FILE[:TOKEN]",
    help="Learn a textual inversion, where the artifact was compiled for some (--spare-tokens). May be repeated. "
    "[default token: the file's own, or its name]",
)
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
    type=FiniteType(0.01, 1000),
    metavar="NUMBER",
    help="Frames a second of the video's file. [default: the pipeline's, or 10]",
)
@drawing_option(
    "scheduler",
    "A scheduler of diffusers, e.g. EulerDiscreteScheduler; its options follow a colon: "
    "DPMSolverMultistepScheduler:use_karras_sigmas=true,solver_order=3.",
)
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="FILE[:WEIGHT]",
    help="Add a LoRA to the weights, in memory, of an artifact that was compiled with --adaptable; by component: "
    "FILE:unet=0.8,text_encoder=0. May be repeated.",
)
@click.option(
    "--lora-partial",
    is_flag=True,
    help="Leave tensors of a LoRA that find no weight in the artifact out, which is an error otherwise.",
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
    prompt_file: str | None,
    negative: str | None,
    weighted: bool,
    image: str | None,
    mask: str | None,
    control_images: tuple[str, ...],
    ip_adapter_images: tuple[str, ...],
    ip_adapter_scales: tuple[float, ...],
    embeddings: tuple[str, ...],
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
    loras: tuple[str, ...],
    lora_partial: bool,
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
    from latentc.api import sources
    from latentc.progress_bars import bars
    from latentc.warn import Warnings
    from runtimes import media
    from runtimes.requested_task import choose_task

    adapters = sources.adapters(loras)
    texts = assignments(arguments, "--arg")
    for name in texts.keys() & OWN.keys():
        if not (name in FILES and texts[name].startswith(("@", "["))):
            raise click.BadParameter(f"'{name}' cannot be given so: use {OWN[name]}.", param_hint="'--arg'")
    if (mask is not None or "mask" in texts) and image is None and "image" not in texts:
        raise click.UsageError("--mask needs --image: the picture that it is a mask of.")
    extra = {name: media.value(text, f"--arg {name}") for name, text in texts.items()}
    wanted = _prompts(prompts, prompt_file)
    controls = [media.picture(Path(file), "RGB") for file in control_images]
    if ip_adapter_images and "ip_adapter_image" in extra:
        raise click.UsageError("'ip_adapter_image' is given twice.")
    if ip_adapter_images:
        extra["ip_adapter_image"] = [media.picture(Path(file), "RGB") for file in ip_adapter_images]
    to = destinations.Destination.of(output, len(wanted or (None,)) * images)
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
    pipelines = read_manifest(folder.absolute()).pipelines
    if task is None:
        task = choose_task(pipelines, start is not None, holes is not None)

    from latentc.api.drawing import load
    from runtimes.generate_options import control_argument, parameters, parameters_of
    from runtimes.trusted_classes import pipeline_class

    if not (wanted or extra):
        drawn_by = pipelines.get(task or next(iter(pipelines)))
        if drawn_by is not None and "prompt" in parameters_of(pipeline_class(drawn_by)):
            raise click.UsageError("generate needs a PROMPT, or --prompts FILE.")

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
        warnings.note(pipeline.note)
        if controls:
            argument = control_argument(parameters(pipeline.diffusers))
            if argument is None:
                raise click.UsageError(
                    f"{type(pipeline.diffusers).__name__} has neither a ControlNet nor a T2I-Adapter."
                )
            if argument in extra or (argument == "image" and start is not None):
                raise click.UsageError(f"'{argument}' is given twice.")
            extra[argument] = controls if len(controls) > 1 else controls[0]
            start = extra.pop("image", start)
        for embedding in sources.embeddings(embeddings) or ():
            pipeline.load_textual_inversion(embedding.file, embedding.token)
        if ip_adapter_scales:
            pipeline.set_ip_adapter_scale(*ip_adapter_scales)
        if adapters:
            quantized = pipeline.set_loras(adapters, partial=lora_partial)
            if quantized:
                click.echo(f"Note: {_quantized_again(quantized)}", err=True)
        for prompt in wanted or (None,):
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
                weighted=weighted,
                progress=progress,
                **extra,
            )
            warnings.note(result.note)
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


def _prompts(texts: tuple[str, ...], file: str | None) -> tuple[str, ...]:
    if texts and file is not None:
        raise click.UsageError("Prompts come from the command line or from --prompts, not from both.")
    return texts if file is None else _read(file)


def _read(file: str) -> tuple[str, ...]:
    import sys
    from pathlib import Path

    from artifacts.named_files import read_all
    from bench import prompts

    if file != "-":
        return prompts.read(Path(file))
    source = "standard input"
    if sys.stdin is None:
        raise click.UsageError("--prompts - reads standard input, which is closed.")
    return prompts.parse(read_all(sys.stdin.buffer, source), source)


def _quantized_again(weights: Sequence[WeightRecord]) -> str:
    """What the LoRAs cost weights in fewer bits, beside what the artifact's own had lost before."""
    errors = [weight.error for weight in weights if weight.error is not None]
    mean = sum(errors) / max(len(errors), 1)
    return (
        f"{len(weights)} weights were quantized again, which is off by {mean:.2%} in the mean and {max(errors):.2%} at "
        "most, beside what they had lost when the model was compiled."
    )


def _timings(timings: Timings) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(timings)
