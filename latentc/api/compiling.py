"""A model becomes an artifact, and an artifact another: `compile`, `auto`, `rebuild`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.argument_types import typed
from artifacts.errors import UsageError
from artifacts.progress import Progress, silent
from latentc.api import keywords, sources
from latentc.api.keywords import Batch, File, Size
from latentc.api.sources import Components, Loras
from latentc.api.tuning import tune

if TYPE_CHECKING:
    from artifacts.manifest import Recipe
    from artifacts.verification import Artifact
    from compiler.compile_request import CompileRequest
    from compiler.plan import Plan
    from compiler.rebuild import RebuildRequest

AUTO = "auto"

OnPlan = Callable[["Plan"], None]


@typed
def compile(
    model: File | CompileRequest,
    out: File | None = None,
    *,
    target: str | None = None,
    precision: str | None = None,
    task: str | Sequence[str] | None = None,
    size: Size | None = None,
    batch: Batch | None = None,
    frames: Batch | None = None,
    tokens: Batch | None = None,
    check: str | None = None,
    quantize: str | Recipe | None = None,
    method: str | None = None,
    accelerate: float | None = None,
    fastest: bool = False,
    min_psnr: float | None = None,
    calibration: File | Sequence[str] | None = None,
    pictures: int | None = None,
    patience: float | None = None,
    references: File | None = None,
    rewrites: str | Sequence[str] | None = None,
    approximate: str | Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    config: File | None = None,
    components: Components | None = None,
    loras: Loras | None = None,
    lora_partial: bool | None = None,
    embeddings: File | Sequence[File] | Mapping[str, str] | None = None,
    ip_adapters: File | Sequence[File] | None = None,
    spare_tokens: int | None = None,
    adaptable: bool | None = None,
    force: bool | None = None,
    progress: Progress = silent,
    on_plan: OnPlan | None = None,
) -> Artifact:
    """Compiles a diffusers pipeline for a target, as `latentc compile` does.

    What is None is as the command's default, or as in the request.

    Args:
        model: a diffusers folder, a single file, a hub id or a built-in name; or a whole `CompileRequest`.
        out: the artifact's folder; it appears when all is done.
        target: a name that `targets` lists.
        precision: in which weights are stored: "fp32", "fp16" or "bf16".
        task: "text-to-image", "image-to-image", "inpaint", or several of them; None for what the model does.
        size: pixels: (width, height), 512, "512x768", "256..1024" or a `SizeRange`; None for the model's own.
        batch: pictures drawn at once: 4, "1..4", (1, 4).
        frames: of a video, written like `batch`; None for the pipeline's own number.
        tokens: the text's length, for embeddings of weighted or long prompts: "77..308"; None for the pipeline's own.
        check: compare each component with PyTorch: "quick", "full" or "none".
        quantize: "int8", "unet=int4,text_encoder=int8", a recipe's .toml file or a `Recipe`.
        method: how int4's values are chosen: "awq", "scale-estimation" or "gptq".
        accelerate: dB: then find the fastest way to draw with the artifact at this PSNR, as `latentc.tune` does.
        fastest: try what makes the model draw faster, and compile what holds `min_psnr` dB to its pictures by default
            (None for 45); `manifest.speed` has what was tried.
        calibration: prompts that activations and `method` are measured on, or a text file of them.
        pictures: how many prompts' pictures are compared with PyTorch's where weights are quantized.
        patience: seconds that drawing them may take.
        references: a folder that keeps PyTorch's pictures for the next compile.
        rewrites: names of exact rewrites, or "none".
        approximate: names of approximations of the graphs ("pooled-keys"), after which pictures are others.
        options: the target's own, by name.
        arguments: more arguments of the pipeline's call: what JSON holds, or texts as of the command's --arg.
        config: of a single file: a diffusers folder with its configuration.
        components: other components by name: a folder, a file of weights, or "none"; a ControlNet or T2I-Adapter that
            the model does not have, or a list of them.
        loras: adapters that are merged into the weights: files, "FILE:0.8", or file -> weight.
        lora_partial: leave tensors of an adapter that find no weight out.
        embeddings: textual inversions: files, "FILE:TOKEN", or file -> token.
        ip_adapters: files of IP-Adapters.
        spare_tokens: how many vectors of textual inversions can be loaded when the artifact runs.
        adaptable: keep what `Pipeline.set_loras` takes.
        force: replace an artifact that is at `out`.
        progress: told of what is under way.
        on_plan: told what will be done before the work starts.

    Returns:
        The artifact: `root`, its folder, and `manifest`, with what was measured.

    Raises:
        UsageError: the request is wrong in itself.
        LatentcError: the model cannot be read or compiled, or a component is not PyTorch's; `out` does not appear.
    """
    from compiler import build

    if quantize == AUTO:
        raise UsageError(
            "a mix of schemes is found for a budget.", "Use latentc.auto(model, out, min_psnr=40, ...)"
        )
    request = request_of(
        model,
        out,
        target=target,
        precision=precision,
        tasks=task,
        size=size,
        batch=batch,
        frames=frames,
        tokens=tokens,
        check=check,
        quantize=with_method(quantize, method),
        calibration=calibration,
        pictures=pictures,
        patience=patience,
        references=references,
        rewrites=rewrites,
        approximate=approximate,
        options=options,
        arguments=arguments,
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
    if min_psnr is not None and not fastest:
        raise UsageError("min_psnr is what fastest=True, or latentc.auto, is held to.")
    if fastest and accelerate is not None:
        raise UsageError("fastest chooses how many steps are forecast, too: leave accelerate out.")
    if fastest:
        return search_fastest(request, min_psnr=min_psnr, progress=progress, on_plan=on_plan)
    with keywords.reporting(progress) as reported:
        artifact = build.compile(request, reported, on_plan)
        return artifact if accelerate is None else tune(artifact.root, min_psnr=accelerate, progress=reported)


@typed
def auto(
    model: File | CompileRequest,
    out: File | None = None,
    *,
    target: str | None = None,
    min_psnr: float | None = None,
    max_bytes: int | None = None,
    precision: str | None = None,
    task: str | Sequence[str] | None = None,
    size: Size | None = None,
    batch: Batch | None = None,
    frames: Batch | None = None,
    tokens: Batch | None = None,
    check: str | None = None,
    pictures: int | None = None,
    patience: float | None = None,
    rewrites: str | Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    config: File | None = None,
    components: Components | None = None,
    loras: Loras | None = None,
    lora_partial: bool | None = None,
    embeddings: File | Sequence[File] | Mapping[str, str] | None = None,
    ip_adapters: File | Sequence[File] | None = None,
    spare_tokens: int | None = None,
    adaptable: bool | None = None,
    force: bool | None = None,
    progress: Progress = silent,
    on_plan: OnPlan | None = None,
) -> Artifact:
    """Finds the mix of schemes that a budget asks for, and compiles it, as `latentc compile --quantize auto` does.

    Args:
        min_psnr: dB: the smallest artifact whose pictures are this near PyTorch's.
        max_bytes: the best artifact of at most this size on disk. One of the two is given.
        model, out, ...: as of `compile`.

    Returns:
        The artifact; `manifest.quantization` is the mix, `manifest.pictures` what was measured of it.

    Raises:
        UsageError: not exactly one budget, or a request that is wrong in itself.
        LatentcError: the budget cannot be met (the message says how near it came), or as `compile`.
    """
    from compiler import auto as search

    request = request_of(
        model,
        out,
        target=target,
        precision=precision,
        tasks=task,
        size=size,
        batch=batch,
        frames=frames,
        tokens=tokens,
        check=check,
        pictures=pictures,
        patience=patience,
        rewrites=rewrites,
        options=options,
        arguments=arguments,
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
    if request.quantize:
        raise UsageError(
            "a mix is found, not given: leave quantize out of the request.", "Or use latentc.compile."
        )
    with keywords.reporting(progress) as reported:
        return search.compile(request, search.Budget(min_psnr, max_bytes), reported, on_plan)


@typed
def search_fastest(
    request: CompileRequest,
    *,
    min_psnr: float | None = None,
    progress: Progress = silent,
    on_plan: OnPlan | None = None,
) -> Artifact:
    """Finds what makes a model draw faster and holds a PSNR, and compiles it, as `latentc compile --fastest` does.

    Args:
        request: as of `compile`, with nothing quantized or approximated.
        min_psnr: dB to the pictures of the same model compiled and drawn by default; None for 45.

    Returns:
        The artifact: `manifest.speed` is what was chosen and what was tried.

    Raises:
        UsageError: the request chooses already what is to be chosen.
        LatentcError: nothing faster holds (the message says how near the nearest came), or as `compile`.
    """
    from compiler import fastest_compile as search
    from compiler.speed_tuning import MIN_PSNR

    wanted = MIN_PSNR if min_psnr is None else min_psnr
    with keywords.reporting(progress) as reported:
        return search.compile(request, wanted, reported, on_plan)


@typed
def rebuild(
    artifact: File | RebuildRequest,
    out: File | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    force: bool | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Makes an artifact's files again from the graphs that it holds, as `latentc compile --rebuild` does.

    Args:
        artifact: its folder, of a target whose artifacts hold their graphs; or a whole `RebuildRequest`.
        out: the new artifact's folder; it appears when all is done.
        options: the target's own, by name; the others are as the artifact was compiled with.
        force: replace an artifact that is at `out`.

    Raises:
        UsageError: an option that the target has not, or that is in the graphs already.
        LatentcError: the artifact does not hold, holds no graphs, or they cannot be built; `out` does not appear.
    """
    from compiler import rebuild as work

    if isinstance(artifact, work.RebuildRequest):
        base = artifact
    elif out is None:
        raise UsageError("rebuild needs a folder for the new artifact: latentc.rebuild(artifact, out).")
    else:
        base = work.RebuildRequest(Path(artifact), Path(out))
    changes = {
        "out": None if out is None else Path(out),
        "options": keywords.texts(options),
        "force": force,
    }
    with keywords.reporting(progress) as reported:
        return work.rebuild(keywords.changed(base, changes), reported)


def request_of(model: File | CompileRequest, out: File | None, **changes: Any) -> CompileRequest:
    """A request made of keywords, or `model`, a request, with fields replaced by them; None leaves a field as it is.

    Args:
        changes: fields of the request, as the functions of the API and the command take them.

    Raises:
        UsageError: there is no folder for the artifact, or no target, or a keyword is none of its kind.
    """
    from compiler.compile_request import CompileRequest

    if isinstance(model, CompileRequest):
        base = model
    elif out is None:
        raise UsageError(
            "a compile needs a folder for the artifact: latentc.compile(model, out, target=...)."
        )
    elif changes["target"] is None:
        from targets import target_table

        raise UsageError(f"a compile needs a target (there are: {', '.join(target_table.names())}).")
    else:
        base = CompileRequest(str(model), Path(out), changes["target"])
    fields = {name: _FIELDS[name](value) if name in _FIELDS else value for name, value in changes.items()}
    return keywords.changed(base, {**fields, "out": None if out is None else Path(out)})


def with_method(quantize: str | Recipe | None, method: str | None) -> str | Recipe | None:
    """What the compiler is asked for; a method needs a text taken apart."""
    if method is None:
        return quantize
    if not isinstance(quantize, str) or not quantize:
        raise UsageError("a method is a way to choose int4's values: it needs quantize with an int4.")
    from compiler.quantize import recipe

    return recipe.with_method(recipe.read(quantize), method)


def _joined(names: str | Sequence[str] | None) -> str | None:
    return names if names is None or isinstance(names, str) else ",".join(names)


# Field of a `CompileRequest` -> what makes it of the keyword, None of None.
_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "tasks": keywords.names,
    "size": keywords.size_range,
    "batch": keywords.batch_range,
    "frames": keywords.frame_range,
    "tokens": keywords.token_range,
    "calibration": keywords.prompts,
    "references": lambda folder: None if folder is None else Path(folder),
    "rewrites": _joined,
    "approximate": _joined,
    "options": keywords.texts,
    "arguments": keywords.json_texts,
    "config": lambda folder: None if folder is None else str(folder),
    "components": sources.components,
    "loras": sources.adapters,
    "embeddings": sources.embeddings,
    "ip_adapters": sources.ip_adapters,
}
