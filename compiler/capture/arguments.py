"""What a pipeline is called with in a dry run: one visible table from argument names to values.

Diffusers' pipelines share the names of their arguments; a new pipeline that uses them needs no entry. An
argument that is not here keeps its default, and one without a default must come from the user (``--arg``).
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from artifacts.errors import UsageError
from compiler.capture.made_visuals import FromFile, how_to_give, make_visual
from runtimes import ip_adapters, media
from runtimes.conditions import FOR_EACH_PROMPT, listed_models
from runtimes.generate_options import synonym
from runtimes.visuals import kind, visuals

Form = Literal["lists", "one picture", "no lists", "tensors"]
"""How prompts and pictures are passed: lists with an item for each row of the batch; a list of prompts and one picture
that all of them share; in a batch of one, the prompt and the picture themselves; or pictures as tensors, whose size a
pipeline keeps that fits others to a size of its own."""

MAX_ELEMENTS = 1 << 28
"""Of a tensor that a call of the dry run is given."""


@dataclass(frozen=True)
class Point:
    """One call: `batch` pictures or videos, `height` and `width` in pixels. `words` is the prompts' length.

    There are as many prompts as pictures, unless `images_per_prompt` are asked for of every prompt. `guided` False
    turns classifier-free guidance off. `extra` marks a point off the declared ranges, to show what varies.
    `frames` are those of each video, made or given; 0 leaves their number to the pipeline.
    `tokens` is the text's length where the call is given embeddings of it, and None where it is given prompts.
    `binned` leaves it to the pipeline whether it draws another size, of a table of its own, and scales that.
    """

    batch: int
    height: int
    width: int
    words: int = 4
    guided: bool = True
    extra: bool = False
    images_per_prompt: int = 1
    form: Form = "lists"
    frames: int = 0
    tokens: int | None = None
    binned: bool = False

    @property
    def prompts(self) -> int:
        """How many prompts, or pictures to start from, the call is given."""
        return self.batch // self.images_per_prompt

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that the call may have; a call for one picture is first made as people make it."""
        several: tuple[Form, ...] = ("lists", "one picture", "tensors")
        return ("no lists", *several) if self.prompts == 1 else several


# Steps enough for an image-to-image pipeline to keep one at its default strength. They cost nothing: a module
# is run once for each set of shapes.
STEPS = 8

_WORDS = "a large red circle at the left of a blue square under some very small green stars".split()


def _prompt(point: Point, pipe: Any) -> list[str] | str:
    words = (_WORDS * (point.words // len(_WORDS) + 1))[: point.words]
    return _texts(" ".join(words), point)


def _negative(point: Point, pipe: Any) -> list[str] | str:
    """Not empty: some tokenizers make no token of nothing."""
    return _texts("very small stars", point)


def _texts(text: str, point: Point) -> list[str] | str:
    return text if point.form == "no lists" else [text] * point.prompts


def _picture(point: Point, pipe: Any) -> Any:
    from PIL import Image

    # Neither black nor flat: pipelines crop, resize and measure it.
    return _pictures(Image.linear_gradient("L").convert("RGB").resize((point.width, point.height)), point)


def _mask(point: Point, pipe: Any) -> Any:
    from PIL import Image

    mask = Image.new("L", (point.width, point.height))
    mask.paste(255, (0, 0, point.width // 2, point.height // 2))
    return _pictures(mask, point)


def _picture_tensor(point: Point, pipe: Any) -> Any:
    import torch

    return torch.zeros(point.prompts, 3, point.height, point.width)


def _pictures(picture: Any, point: Point) -> Any:
    return [picture] * point.prompts if point.form == "lists" else picture


def _embedding(point: Point, pipe: Any) -> Any:
    """An image embedding; its width stands in the denoiser's config."""
    import torch

    width = _config(pipe, ("encoder_hid_dim", "embedding_dim", "cross_attention_dim"))
    return torch.zeros(point.prompts, width)


def _cascade_embedding(point: Point, pipe: Any) -> Any:
    """Stable Cascade's prior makes 16 channels at 1/42.67 of the picture (pipeline argument resolution_multiple)."""
    import torch

    channels = _config(pipe, ("effnet_channels", "effnet_in_channels"))
    return torch.zeros(point.prompts, channels, -(-point.height * 3 // 128), -(-point.width * 3 // 128))


def _config(pipe: Any, keys: tuple[str, ...]) -> int:
    for component in pipe.components.values():
        for key in keys:
            value = getattr(getattr(component, "config", None), key, None)
            if isinstance(value, int):
                return value
    raise UsageError(
        f"{type(pipe).__name__} takes an embedding whose width its components' configs do not tell "
        f"(looked for {', '.join(keys)}).",
        "Give it: --arg NAME=zeros(2,768)",
    )


def _generator(point: Point, pipe: Any) -> Any:
    """`generate` always gives one: a component that is handed it must not be captured with None."""
    import torch

    return torch.Generator("cpu").manual_seed(0)


BINNING = "use_resolution_binning"
"""Whether a pipeline draws the nearest size of a table of aspect ratios in place of the one that it is told."""

ARGUMENTS: dict[str, Callable[[Point, Any], Any]] = {
    "prompt": _prompt,
    "negative_prompt": _negative,
    "height": lambda point, pipe: point.height,
    "width": lambda point, pipe: point.width,
    "num_inference_steps": lambda point, pipe: STEPS,
    "prior_num_inference_steps": lambda point, pipe: STEPS,
    "generator": _generator,
    BINNING: lambda point, pipe: False,
    "class_labels": lambda point, pipe: [index % 10 for index in range(point.prompts)],
}
"""Given to every pipeline that has the argument."""

CONDITIONING_SCALE = "conditioning_scale"
"""How the names of arguments end that say how strong a ControlNet or a T2I-Adapter is."""

REQUIRED: dict[str, Callable[[Point, Any], Any]] = {
    "image": _picture,
    "mask_image": _mask,
    "control_image": _picture,
    "hint": _picture_tensor,
    "image_embeds": _embedding,
    "negative_image_embeds": _embedding,
    "image_embeddings": _cascade_embedding,
}
"""Given where the argument has no default, or where the task or a failed call asks for it."""

UNGUIDED: dict[str, float] = {"guidance_scale": 1.0, "true_cfg_scale": 1.0}
"""What turns classifier-free guidance off; pipelines that take guidance as an input are not harmed."""

GUIDED: dict[str, float] = {"guidance_scale": 4.0}
"""What turns it on, in pipelines whose default is off: an artifact should do both."""

TEXTS = ("prompt", "negative_prompt")
"""A text that the user gives for these is passed as often as there are prompts: pipelines want both alike."""

GUIDED_ONLY = ("negative_prompt",)
"""Left out of calls without guidance: some pipelines take another way when it is None (an empty embedding)."""

EACH = ("num_images_per_prompt", "num_videos_per_prompt")
"""How many pictures to make of each prompt; the first that a pipeline has is used."""

TASK_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "image-to-image": ("image",),
    "inpaint": ("image", "mask_image"),
}
"""What a task adds to a call."""

STEPS_OF = ("num_inference_steps", "prior_num_inference_steps")
"""Left to the pipeline where it does not make so many (`STEPS`): some are distilled to one number of them."""

FOR_EACH_MODEL = ("control_image", "image")
"""What has a picture for each model of a component that is a list of models; the first that a pipeline has."""

_RETRIES: tuple[tuple[str, ...], ...] = ((), ("image",), ("image", "control_image"))


def retries(pipe: Any) -> tuple[tuple[str, ...], ...]:
    """Optional arguments that are passed in turn when the call itself says that something is missing.

    Pictures first (ControlNet, upscalers; a second picture that an upscaler compares with; a picture and its mask),
    then the pipeline's videos: each, all, and all with their masks.
    """
    kinds = visuals(inspect.signature(type(pipe).__call__).parameters)
    videos = [name for name, which in kinds.items() if which == "video"]
    masks = [name for name, which in kinds.items() if which == "masks"]
    several = [(*videos,), (*videos, *masks)] if videos else []
    pictures: list[tuple[str, ...]] = [
        ("image", name) for name, which in kinds.items() if which == "picture" and name not in REQUIRED
    ]
    pictures += [("image", "control_image", name) for name, which in kinds.items() if which == "mask"]
    return tuple(dict.fromkeys((*_RETRIES, *pictures, *((name,) for name in videos), *several)))


def arguments(
    pipe: Any, task: str, point: Point, extra: tuple[str, ...], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments for ``pipe(...)`` at `point`.

    Args:
        extra: more names of `REQUIRED`, of which the pipeline's own are used.
        overrides: the user's own, which win; callables are called with the point.

    Raises:
        UsageError: the pipeline requires an argument that neither table nor `overrides` has.
    """
    parameters = inspect.signature(type(pipe).__call__).parameters
    counter = synonym("frames", parameters)
    images_argument = takes_each(pipe)
    if images_argument is None or images_argument in overrides:
        point = replace(point, images_per_prompt=1)
    result: dict[str, Any] = (
        {}
        if images_argument is None or point.images_per_prompt == 1
        else {images_argument: point.images_per_prompt}
    )
    models = listed_models(pipe)
    listed = next((name for name in FOR_EACH_MODEL if name in parameters), None) if models else None
    adapters = ip_adapters.count(pipe)
    for name, parameter in parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = (
            parameter.default is parameter.empty or name in TASK_ARGUMENTS.get(task, ()) or name in extra
        )
        if name in overrides:
            result[name] = _as_passed(overrides[name], name, parameters, point)
        elif point.frames and name == counter:
            result[name] = point.frames
        elif name == BINNING and point.binned:
            continue
        elif name in ARGUMENTS and (point.guided or name not in GUIDED_ONLY):
            result[name] = ARGUMENTS[name](point, pipe)
        elif name == ip_adapters.IMAGE and adapters:
            result[name] = [_picture(replace(point, form="no lists"), pipe)] * adapters
        elif name.endswith(CONDITIONING_SCALE) and isinstance(parameter.default, float):
            strength = _strength(point, parameter.default)
            result[name] = [strength] * models if models else strength
        elif required and name in REQUIRED:
            result[name] = _required(name, point, pipe)
            if name == listed:
                item_point = point if FOR_EACH_PROMPT in parameters else replace(point, form="no lists")
                result[name] = [_required(name, item_point, pipe)] * models
        elif required and (which := kind(name, parameters)):
            result[name] = make_visual(which, point)
        elif parameter.default is parameter.empty:
            raise UsageError(
                f"{type(pipe).__name__} requires the argument '{name}', which latentc cannot make up.",
                f"Give it: {how_to_give(name, parameters)}",
            )
        if name in overrides:
            continue
        if not point.guided and name in UNGUIDED:
            result[name] = UNGUIDED[name]
        elif point.guided and name in GUIDED and _is_off(parameter.default):
            result[name] = GUIDED[name]
    if point.form == "tensors":
        generated = {name: value for name, value in result.items() if name not in overrides}
        result |= {name: _as_tensors(value, point) for name, value in generated.items()}
    unknown = [name for name in overrides if name not in parameters]
    if unknown:
        raise UsageError(f"{type(pipe).__name__} has no argument {', '.join(unknown)} (--arg).")
    return result


def _as_tensors(value: Any, point: Point) -> Any:
    """Of a picture, a tensor [prompts, channels, height, width] from 0 to 1; else the value itself."""
    import numpy as np
    import torch

    if not isinstance(value, list) and media.is_visual(value):
        pixels = torch.from_numpy(np.array(value, np.float32) / 255)
        channels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return channels.expand(point.prompts, *channels.shape).clone()
    return value


def visual_arguments(pipe: Any, task: str, height: int, width: int) -> Iterator[dict[str, Any]]:
    """The pictures that a call for one picture may want beside its prompt (a ControlNet's), as a dry run gives them.
    None come first, unless the pipeline requires some."""
    point = Point(1, height, width, form="no lists")
    for extra in retries(pipe):
        values = arguments(pipe, task, point, extra, {})
        yield {name: value for name, value in values.items() if media.is_visual(value)}


def _strength(point: Point, usual: float) -> float:
    """Not the same at all points: what a component is told of it becomes an input of its graph."""
    return usual / (1 + point.words % 2)


def _required(name: str, point: Point, pipe: Any) -> Any:
    try:
        return REQUIRED[name](point, pipe)
    except UsageError as error:
        raise UsageError(error.message, error.hint.replace("NAME", name)) from None


def takes_each(pipe: Any) -> str | None:
    """The pipeline's name for how many pictures it makes of each prompt, if it makes more than one."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    return next((name for name in EACH if name in parameters), None)


def _is_off(guidance: Any) -> bool:
    return isinstance(guidance, (int, float)) and guidance <= 1


def _as_passed(value: Any, name: str, parameters: Mapping[str, inspect.Parameter], point: Point) -> Any:
    """What the user gave, as it is passed at a point."""
    if isinstance(value, FromFile):
        return value(point, kind(name, parameters))
    if callable(value):
        return value(point)
    if isinstance(value, dict) and "dict" not in str(parameters[name].annotation).lower():
        value = json.dumps(value, ensure_ascii=False)  # a prompt in JSON
    if isinstance(value, str) and name in TEXTS:
        return value if point.form == "no lists" else [value] * point.prompts
    return value


def parse_arguments(texts: Mapping[str, str]) -> dict[str, Any]:
    """``--arg`` values: ``zeros(2,768)`` a tensor whose first axis is the batch, else as `runtimes.media.value`.

    Raises:
        UsageError: a shape that cannot be read, a value nested too deep, or a file that is not what it should be.
    """
    result: dict[str, Any] = {}
    for name, text in texts.items():
        if text.startswith("zeros(") and text.endswith(")"):
            try:
                shape = [int(part) for part in text[6:-1].split(",") if part.strip()]
                if min(shape, default=1) < 1 or math.prod(shape) > MAX_ELEMENTS:
                    raise ValueError
            except ValueError:
                raise UsageError(
                    f"--arg {name}={text}: expected zeros(BATCH,...) with whole numbers from 1, and at most "
                    f"{MAX_ELEMENTS} elements."
                ) from None
            result[name] = _Zeros(tuple(shape))
            continue
        value = media.value(text, f"--arg {name}")
        result[name] = FromFile.of(value) if media.is_visual(value) else value
    return result


@dataclass(frozen=True)
class _Zeros:
    shape: tuple[int, ...]

    def __call__(self, point: Point) -> Any:
        import torch

        return torch.zeros(point.prompts, *self.shape[1:])
