"""`latentc compile`: a model becomes an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from artifacts.precisions import PRECISIONS
from compiler.capture.tasks import TASKS
from latentc.compile_options import addition_options, weight_options
from latentc.compile_output import print_plan, print_result
from latentc.params import (
    AssignmentType,
    Sizes,
    SizesType,
    Span,
    SpanType,
    argument_option,
    assignments,
    json_option,
)
from latentc.target_options import TargetCommand, passed_options

if TYPE_CHECKING:
    from artifacts.verification import Artifact
    from compiler.compile_request import CompileRequest
    from compiler.plan import Plan

NAME_VALUE = AssignmentType()
AUTO = "auto"


@click.command(
    name="compile",
    cls=TargetCommand,
    short_help="Compile a diffusers pipeline for a target.",
    epilog="""\b
Examples:
  latentc compile shapes out --target openvino
  latentc compile ./sd15 out --target onnxruntime --precision fp16 --size 256..1024 --batch 1..4
  latentc compile ./sdxl out --target openvino --quantize unet=int4,text_encoder=int8
  latentc compile shapes out --target tensorrt --gpu sm89,sm120
  latentc compile ./model.safetensors out --target openvino --config ./sdxl
  latentc compile ./sdxl out --target openvino --lora style.safetensors:0.8
  latentc compile ./sdxl out --target openvino --task text-to-image --task inpaint --dry-run
  latentc compile ./sd15 out --target openvino --fastest --min-psnr 40
  latentc compile out out-50 --rebuild --gpu sm120
""",
)
@click.argument("model")
@click.argument("out", type=click.Path())
@click.option("--target", "-t", metavar="NAME", help="What to compile for; see: latentc targets.  [required]")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp16",
    show_default=True,
    help="What weights are stored in; those of values that would overflow stay in fp32, and the manifest says which. "
    "What is computed in is decided where it runs: see --compute of latentc generate.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    type=click.Choice(TASKS),
    help="What the artifact can do; may be repeated, shared components are compiled once. "
    "[default: what MODEL's own pipeline does]",
)
@click.option(
    "--size",
    type=SizesType(),
    metavar="WxH|MIN..MAX",
    help="Picture size in pixels: fixed (512x768), a range for both sides (256..1024), "
    "or one for each (256..1024x512..768). [default: the model's own size]",
)
@click.option(
    "--batch",
    type=SpanType(),
    default="1",
    show_default=True,
    metavar="N|MIN..MAX",
    help="Pictures drawn at once, fixed or as a range.",
)
@click.option(
    "--frames",
    type=SpanType(),
    metavar="N|MIN..MAX",
    help="Frames of a video, fixed or as a range. [default: the pipeline's own number]",
)
@click.option(
    "--tokens",
    type=SpanType(),
    metavar="MIN..MAX",
    help="How long the text may be, in tokens, where it is given as embeddings (prompt_embeds) of weighted or long "
    "prompts: 77..308. [default: the pipeline's own length]",
)
@click.option(
    "--check",
    type=click.Choice(["quick", "full", "none"]),
    default="quick",
    show_default=True,
    help="Compare each component with PyTorch: at one shape, at the ends and the middle of every "
    "range, or not at all.",
)
@click.option(
    "--option",
    "-o",
    "options",
    multiple=True,
    type=NAME_VALUE,
    metavar="NAME=VALUE",
    help="An option of the target's own, which may also be written --NAME VALUE; "
    "latentc compile --target TARGET --help lists them.",
)
@argument_option(
    "An argument that the pipeline's call needs beside the usual ones: JSON, plain text, @FILE for what a "
    "picture, a video, a folder of pictures, a .wav, .npy or JSON file holds, or zeros(2,768) for a tensor whose "
    "first axis is the batch. May be repeated."
)
@weight_options
@click.option(
    "--rebuild",
    is_flag=True,
    help="MODEL is an artifact that holds its graphs: make its files again from them, with other options of the "
    "target's own (another GPU) or newer tools. The source model is not needed.",
)
@click.option(
    "--rewrites",
    metavar="NAME,...|none",
    default="",
    help="Exact rewrites that make the graphs faster; docs/speed.md has the names and what each gains. "
    "[default: those that pay on the target]",
)
@click.option(
    "--approximate",
    metavar="NAME,...",
    default="",
    help="Approximations of the graphs, after which pictures are others, which is measured: pooled-keys averages the "
    "keys and values of attention over a large picture. [default: none]",
)
@addition_options
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--force", is_flag=True, help="Replace the artifact that is at OUT.")
@json_option("Print the result (with --dry-run: the plan) as JSON.")
def command(
    model: str,
    out: str,
    target: str | None,
    precision: str,
    tasks: tuple[str, ...],
    size: Sizes | None,
    batch: Span,
    frames: Span | None,
    tokens: Span | None,
    check: str,
    options: tuple[tuple[str, str], ...],
    arguments: tuple[tuple[str, str], ...],
    quantize: str,
    method: str | None,
    min_psnr: float | None,
    max_bytes: int | None,
    fastest: bool,
    accelerate: float | None,
    calibration: str | None,
    pictures: int,
    save_recipe: str | None,
    rebuild: bool,
    rewrites: str,
    approximate: str,
    config: str | None,
    components: tuple[tuple[str, str], ...],
    loras: tuple[str, ...],
    lora_partial: bool,
    embeddings: tuple[str, ...],
    ip_adapters: tuple[str, ...],
    spare_tokens: int,
    adaptable: bool,
    dry_run: bool,
    force: bool,
    json_output: bool,
) -> None:
    """Compile MODEL for a target and publish the artifact at OUT.

    MODEL is a diffusers folder, a single .safetensors file, a hub id or the built-in model `shapes`. Its graphs are
    captured and exported without loading a weight, the weights are then streamed into the artifact one tensor at a
    time, and each component is compared with PyTorch. OUT appears when all of it is done, in one step; a compile that
    was stopped continues with what it had finished.
    """
    from latentc.api import compiling
    from latentc.api.tuning import tune
    from latentc.progress_bars import bars

    own = assignments((*options, *passed_options(click.get_current_context())), "--option")
    if rebuild:
        _rebuild(model, out, own, force, json_output)
        return
    if target is None:
        raise click.UsageError("Missing option '--target' / '-t'.")
    if method is not None and quantize in ("", AUTO):
        raise click.UsageError("--method is a way to choose int4's values: it needs --quantize with an int4.")
    request = compiling.request_of(
        model,
        out,
        target=target,
        precision=precision,
        tasks=tasks,
        size=size,
        batch=batch,
        frames=frames,
        tokens=tokens,
        check=check,
        options=own,
        arguments=assignments(arguments, "--arg"),
        quantize=None if quantize == AUTO else compiling.with_method(quantize, method),
        calibration=calibration,
        pictures=pictures,
        rewrites=rewrites,
        approximate=approximate,
        config=config,
        components=components,
        loras=loras,
        lora_partial=lora_partial,
        embeddings=embeddings,
        ip_adapters=ip_adapters,
        spare_tokens=spare_tokens,
        adaptable=adaptable,
        force=force,
    )
    if save_recipe is not None and not quantize:
        raise click.UsageError("--save-recipe needs --quantize.")
    if fastest and (quantize or accelerate is not None or max_bytes is not None):
        raise click.UsageError("--fastest chooses by itself: it goes with --min-psnr alone.")
    if quantize != AUTO and (max_bytes is not None or (min_psnr is not None and not fastest)):
        raise click.UsageError(
            "--min-psnr and --max-bytes are budgets of --quantize auto, --min-psnr of --fastest."
        )
    if fastest and dry_run:
        raise click.UsageError("--fastest is measured, not planned: it has no --dry-run.")
    if quantize == AUTO and dry_run:
        raise click.UsageError("--quantize auto is measured, not planned: it has no --dry-run.")
    if dry_run and accelerate is not None:
        raise click.UsageError("--accelerate is measured, not planned: it has no --dry-run.")
    if dry_run:
        _dry_run(request, json_output, save_recipe)
        return

    def show_plan(plan: Plan) -> None:
        if not json_output:
            print_plan(plan)
        _save_recipe(plan, save_recipe)

    with bars() as progress:
        if quantize == AUTO:
            artifact = compiling.auto(
                request, min_psnr=min_psnr, max_bytes=max_bytes, progress=progress, on_plan=show_plan
            )
        elif fastest:
            artifact = compiling.search_fastest(
                request, min_psnr=min_psnr, progress=progress, on_plan=show_plan
            )
        else:
            artifact = compiling.compile(request, progress=progress, on_plan=show_plan)
        if accelerate is not None:
            artifact = tune(artifact.root, min_psnr=accelerate, progress=progress)
    _tell(artifact, json_output)


# What `--rebuild` goes with, beside the target's own options.
_OF_A_REBUILD = frozenset({"model", "out", "options", "rebuild", "force", "json_output"})


def _rebuild(artifact: str, out: str, options: dict[str, str], force: bool, json_output: bool) -> None:
    from latentc.api.compiling import rebuild
    from latentc.progress_bars import bars

    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        if name not in _OF_A_REBUILD and context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[0]} does not go with --rebuild: the artifact's graphs stay as they are."
            )
    with bars() as progress:
        rebuilt = rebuild(artifact, out, options=options, force=force, progress=progress)
    _tell(rebuilt, json_output)


def _tell(artifact: Artifact, json_output: bool) -> None:
    from latentc import show

    if json_output:
        show.as_json({"artifact": str(artifact.root), "manifest": artifact.manifest.model_dump(mode="json")})
    else:
        print_result(artifact)


def _save_recipe(plan: Plan, file: str | None) -> None:
    if file is None or plan.recipe is None:
        return
    from pathlib import Path

    from compiler.quantize.recipe import dump
    from latentc.whole_file import whole_file

    with whole_file(Path(file)) as partial:
        partial.write_text(dump(plan.recipe), encoding="utf-8")


def _dry_run(request: CompileRequest, json_output: bool, save_recipe: str | None) -> None:
    from compiler.build import plan
    from latentc import show
    from latentc.progress_bars import bars

    with bars() as progress:
        draft = plan(request, progress)
    _save_recipe(draft, save_recipe)
    if json_output:
        show.as_json(draft.to_dict())
    else:
        print_plan(draft)
