"""Options of `latentc compile`: what weights are stored as, and what goes into the model before it is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from latentc.params import AssignmentType, BytesType, FiniteType

Command = Callable[..., Any]

_WEIGHTS = (
    click.option(
        "--quantize",
        metavar="SPEC",
        default="",
        help="Store weights in fewer bits: int8, int4, nf4 or int8-activations for all (int4:group=32,asymmetric), "
        "by component (unet=int4,vae=fp16), as a recipe's .toml file says, or auto for a mix that a budget asks for; "
        "see docs/quantization.md.",
    ),
    click.option(
        "--method",
        type=click.Choice(["awq", "scale-estimation", "gptq"]),
        help="With int4: choose its values by what the component is called with, through NNCF. Its memory must hold "
        "the component several times over. [default: by the weight alone, one at a time]",
    ),
    click.option(
        "--min-psnr",
        type=FiniteType(min=0, min_open=True),
        metavar="DB",
        help="With --quantize auto: the smallest artifact whose pictures, computed in fp32, are this near PyTorch's. "
        "With --fastest: how near pictures stay to those of the same model compiled and drawn by default. "
        "[default: 45]",
    ),
    click.option(
        "--fastest",
        is_flag=True,
        help="Try what makes the model draw faster (types, threads, 8 bits by component, approximations, forecast "
        "steps), alone and together, and compile what holds --min-psnr. Minutes to hours.",
    ),
    click.option(
        "--max-bytes",
        type=BytesType(),
        metavar="SIZE",
        help="With --quantize auto: the best artifact of at most this size on disk, e.g. 600M.",
    ),
    click.option(
        "--accelerate",
        type=FiniteType(min=0, min_open=True),
        metavar="DB",
        help="Then find the fastest way to draw with the artifact, its pictures within this PSNR of those by default: "
        "the command tune does that to one that is there.",
    ),
    click.option(
        "--calibration",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="Prompts that int8-activations and --method measure on, one on each line. "
        "[default: the model's own, or general ones]",
    ),
    click.option(
        "--pictures",
        type=click.IntRange(min=0),
        default=8,
        show_default=True,
        metavar="N",
        help="Prompts that are drawn with PyTorch and with the quantized model and compared, where that takes "
        "less than 15 minutes.",
    ),
    click.option(
        "--save-recipe",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Write what --quantize is for this model as a recipe, which --quantize reads.",
    ),
)

_ADDITIONS = (
    click.option(
        "--config",
        type=click.Path(exists=True, file_okay=False),
        metavar="FOLDER",
        help="Where MODEL is a single file: a diffusers folder of a model of its kind, whose configuration is taken. "
        "[default: what diffusers takes, from the hub or its cache]",
    ),
    click.option(
        "--component",
        "components",
        multiple=True,
        type=AssignmentType(),
        metavar="NAME=FOLDER|FILE|none",
        help="Another component in the place of the model's own: a component's folder, a file of its weights, or none "
        "to leave it out; or a further one: controlnet=FOLDER, adapter=FOLDER (a T2I-Adapter). May be repeated; the "
        "same name again is one more ControlNet.",
    ),
    click.option(
        "--lora",
        "loras",
        multiple=True,
        metavar="FILE[:WEIGHT]",
        help="Merge a LoRA (or DoRA, LoHa, LoKr, full difference) into the weights; by component: "
        "FILE:unet=0.8,text_encoder=0. May be repeated.",
    ),
    click.option(
        "--lora-partial",
        is_flag=True,
        help="Leave tensors of a LoRA that find no weight in the model out, which is an error otherwise.",
    ),
    click.option(
        "--embedding",
        "embeddings",
        multiple=True,
        metavar="FILE[:TOKEN]",
        help="Add a textual inversion: its token to the tokenizer, its vectors to the text encoder. May be repeated. "
        "[default token: the file's own, or its name]",
    ),
    click.option(
        "--ip-adapter",
        "ip_adapters",
        multiple=True,
        metavar="FILE",
        help="Put an IP-Adapter into the denoiser. Its image encoder is the folder image_encoder beside the file, or "
        "--component image_encoder=FOLDER. May be repeated.",
    ),
    click.option(
        "--spare-tokens",
        type=click.IntRange(0, 10_000),
        default=0,
        show_default=True,
        metavar="N",
        help="How many vectors of textual inversions can be loaded into the artifact when it runs: "
        "generate --embedding.",
    ),
    click.option(
        "--adaptable",
        is_flag=True,
        help="Keep what it takes to switch LoRAs when the artifact runs: latentc generate ARTIFACT PROMPT --lora FILE.",
    ),
)


def weight_options(command: Command) -> Command:
    """What weights are stored as, how a mix or what is fastest is searched for, and what that is measured on."""
    return _with(_WEIGHTS, command)


def addition_options(command: Command) -> Command:
    """Where a single file's configuration is, other components, and adapters."""
    return _with(_ADDITIONS, command)


def _with(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):  # as decorators are applied
        command = option(command)
    return command
