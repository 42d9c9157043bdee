"""The options of `generate` as the parameters of a pipeline's own `__call__`."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from artifacts.command_words import quoted
from artifacts.errors import UsageError
from artifacts.manifest import DimRange
from artifacts.units import whole_number

MAX_DEPTH = 64
"""Lists and objects in each other, in a value of an option."""

# Our option -> what diffusers' pipelines call it. The first that the pipeline has is used.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "negative_prompt": ("negative_prompt",),
    # Masked pipelines of Kandinsky and most others; "reference_image" is what subject-driven ones take.
    "image": ("image", "reference_image"),
    "mask": ("mask_image", "mask", "mask_images"),
    "strength": ("strength",),
    "steps": ("num_inference_steps", "prior_num_inference_steps"),
    "guidance": ("guidance_scale", "prior_guidance_scale"),
    "images": ("num_images_per_prompt", "num_videos_per_prompt"),
    "seed": ("generator",),
    "width": ("width",),
    "height": ("height",),
    # Of each video.
    "frames": ("num_frames", "video_length", "frames"),
}


def parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """The named parameters of the pipeline's `__call__`; its ``**kwargs`` are for deprecated ones."""
    return parameters_of(type(pipeline))


def parameters_of(pipeline_class: type) -> Mapping[str, inspect.Parameter]:
    """As `parameters`, of a class of pipelines."""
    return _named(pipeline_class.__call__)


@functools.lru_cache(maxsize=64)
def _named(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    declared = inspect.signature(call).parameters
    return MappingProxyType(
        {n: p for n, p in declared.items() if n != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    )


def synonym(option: str, parameters: Mapping[str, Any]) -> str | None:
    """The pipeline's name for our `option`, or None if it has none."""
    return next((name for name in SYNONYMS[option] if name in parameters), None)


def control_argument(parameters: Mapping[str, Any]) -> str | None:
    """The pipeline's name for what a ControlNet or a T2I-Adapter follows; None for one without either."""
    if "control_image" in parameters:
        return "control_image"
    strong = any(name.endswith("conditioning_scale") for name in parameters)
    return "image" if strong and "image" in parameters and "strength" not in parameters else None


def arguments(pipeline: Any, options: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for the pipeline's `__call__`.

    Args:
        options: our options; those that are None are not passed on.
        extra: the pipeline's own parameters, passed on as they are.

    Raises:
        UsageError: the pipeline has no parameter for an option.
    """
    signature = parameters(pipeline)
    keywords: dict[str, Any] = {}
    for option, value in options.items():
        if value is None:
            continue
        name = synonym(option, signature)
        if name is None:
            shown = "size" if option in ("width", "height") else option
            raise UsageError(
                f"{type(pipeline).__name__} has no parameter for '{shown}' (it has: {_names(signature)})."
            )
        keywords[name] = value
    for name, value in extra.items():
        if name in SYNONYMS["images"] and name in signature:
            raise UsageError(
                f"'{name}' is given by 'images': each picture has a seed of its own.",
                f"Use --images {value}, in Python images={value}",
            )
        if name not in signature:
            near = difflib.get_close_matches(name, [*signature, *SYNONYMS], n=1)
            hint = f"Did you mean '{near[0]}'?" if near else ""
            raise UsageError(
                f"{type(pipeline).__name__} has no parameter '{name}' (it has: {_names(signature)}).", hint
            )
        if name in keywords:
            raise UsageError(f"'{name}' is given twice: by its own name and as one of {_ours(name)}.")
        keywords[name] = value
    missing = [n for n, p in signature.items() if p.default is p.empty and n not in keywords]
    if missing:
        raise UsageError(f"{type(pipeline).__name__} needs '{missing[0]}' ({', '.join(_ours(missing[0]))}).")
    return keywords


def as_compile_options(
    parameters: Mapping[str, inspect.Parameter], passed: Mapping[str, Any], compiled_with: Collection[str]
) -> str:
    """How a compile is told of what a call is given beside prompts, sizes and steps: "--arg clip_skip=2"; empty where
    there is nothing of that kind.

    Args:
        parameters: the parameters of the pipeline's call.
        compiled_with: names that the artifact was compiled with.
    """
    usual = {name for names in SYNONYMS.values() for name in names} | {"output_type", "return_dict", "eta"}
    extras = {
        name: _json(value)
        for name, value in passed.items()
        if name in parameters
        and name not in usual
        and name not in compiled_with
        and value is not parameters[name].default
    }
    return " ".join(f"--arg {name}={text}" for name, text in extras.items() if text)


def _json(value: Any) -> str:
    """A value as an option holds it; empty for what is no JSON."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return ""
    return quoted(text)


def parse_value(text: str, option: str) -> Any:
    """What a value of an option that takes any is: JSON where it is JSON ("3", "[207]", "true"), else the text itself.

    Args:
        option: for the error ("--arg eta").

    Raises:
        UsageError: lists and objects in each other, deeper than `MAX_DEPTH`.
    """
    try:
        return parsed_json(text, option)
    except ValueError:
        return text


def parsed_json(text: str, option: str) -> Any:
    """The value of a JSON text.

    Args:
        option: for the error ("--arg eta").

    Raises:
        UsageError: lists and objects in each other, deeper than `MAX_DEPTH`.
        ValueError: it is no JSON.
    """
    value: Any = None
    try:
        value = json.loads(text)
        deep = _depth(value) > MAX_DEPTH
    except RecursionError:
        deep = True
    if deep:
        raise UsageError(
            f"{option}: '{text[:40]}...' is nested too deep: more than {MAX_DEPTH} lists and objects."
        )
    return value


def _depth(value: Any) -> int:
    """How many lists and objects there are in each other."""
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, (list, dict))]:
        depth += 1
        level = [v for inner in level for v in (inner.values() if isinstance(inner, dict) else inner)]
    return depth


def parse_size(size: str | int | tuple[int, int] | None) -> tuple[int, int] | None:
    """``"512x384"``, ``(512, 384)``, or 512 for a square -> (width, height) in pixels.

    Raises:
        UsageError: not of that form.
    """
    if size is None:
        return None
    parts = list(map(str, size)) if isinstance(size, (tuple, list)) else f"{size}".lower().split("x")
    if len(parts) == 1:
        parts *= 2
    sides = [whole_number(part) for part in parts]
    if len(sides) != 2 or not all(sides):
        raise UsageError(f"a size is written WIDTHxHEIGHT; found '{size}'.", "For instance: --size 512x512")
    return sides[0] or 0, sides[1] or 0


def check_range(subject: str, value: int, sizes: Mapping[str, DimRange], name: str) -> None:
    """Raises UsageError when `value` is outside what the artifact was compiled for, or between its steps."""
    limits = sizes.get(name)
    if limits is not None and value not in limits:
        allowed = limits.text.replace("..", " to ")
        if limits.min <= value <= limits.max:
            near = " and ".join(map(str, limits.nearest(value)))
            itself = f"--frames {value}" if name == "frames" else "--size WIDTHxHEIGHT"
            raise UsageError(
                f"the artifact was compiled for {name if name == 'frames' else f'a {name}'} of {allowed}; "
                f"found {subject} {value}.",
                f"The nearest: {near}. For {value} itself, compile one size: latentc compile MODEL OUT {itself}",
            )
        if name == "frames":
            raise UsageError(
                f"the artifact was compiled for videos of {allowed} frames; found {subject} {value}.",
                "Compile it for more: latentc compile MODEL OUT --frames MIN..MAX",
            )
        raise UsageError(
            f"the artifact was compiled for a {name} of {allowed}; found {subject} {value}.",
            f"Compile it for more: latentc compile MODEL OUT --{'batch' if name == 'batch' else 'size'} MIN..MAX",
        )


def check_texts(options: Mapping[str, Any]) -> None:
    """Raises UsageError for text that no tokenizer takes: bytes other than UTF-8, which Python keeps as surrogates."""
    for name, value in options.items():
        for text in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
                raise UsageError(
                    f"'{name}' is not Unicode text: {ascii(text)[:80]}.",
                    "On a command line, text is in the encoding of the terminal, mostly UTF-8.",
                )


def _names(parameters: Mapping[str, Any]) -> str:
    return ", ".join(parameters)


def _ours(name: str) -> list[str]:
    return [option for option, names in SYNONYMS.items() if name in names] or [name]
