"""Pictures, masks and videos for a dry run: made up, or from a file that the user gives in their place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from runtimes.visuals import Kind, kind, visuals

if TYPE_CHECKING:
    from PIL.Image import Image

    from compiler.capture.arguments import Point

FRAMES = 17
"""How long a made-up video is where nothing says: a whole number of latents for each temporal compression in use."""


def make_visual(which: Kind, point: Point) -> Any:
    """What is passed where the user gives nothing: gradients that move, and masks of a half."""
    if which in ("picture", "mask"):
        picture = _frame(which == "mask", point.height, point.width, 0)
        return [picture] * point.prompts if point.form == "lists" else picture
    clip = [_frame(which == "masks", point.height, point.width, at) for at in range(point.frames or FRAMES)]
    return _for_prompts(clip, point)


@lru_cache(maxsize=256)  # A compile asks for the same few many times.
def _frame(mask: bool, height: int, width: int, at: int) -> Image:
    from PIL import Image

    if mask:
        picture = Image.new("L", (width, height))
        picture.paste(255, (0, 0, width // 2, height // 2))
        return picture
    # Neither black nor flat: pipelines crop, resize and measure it. Nor still: some look at what changes.
    gradient = Image.linear_gradient("L").rotate(90 * at)
    return gradient.convert("RGB").resize((width, height))


def _for_prompts(clip: list[Any], point: Point) -> Any:
    """A video for each prompt; the video itself for one prompt, or where all of them share it."""
    return clip if point.prompts == 1 or point.form != "lists" else [list(clip)] * point.prompts


@dataclass(frozen=True)
class FromFile:
    """What the user gave for an argument as a file: a picture, or the frames of a video or a folder.

    Called with a point and the argument's kind, it is what is passed there: resized to the point's pictures, as often
    as there are prompts, and as many frames as the point has.
    """

    frames: tuple[Any, ...]
    moving: bool

    @classmethod
    def of(cls, value: Any) -> FromFile:
        """What `runtimes.media.read` returned: a picture, or a list of them."""
        return cls(tuple(value), True) if isinstance(value, list) else cls((value,), False)

    def __call__(self, point: Point, which: Kind | None) -> Any:
        fitted = [frame.resize((point.width, point.height)) for frame in self.frames]
        if which in ("mask", "masks"):
            fitted = [frame.convert("L") for frame in fitted]
        if which in ("video", "masks"):
            count = point.frames or len(fitted)
            return _for_prompts([fitted[at % len(fitted)] for at in range(count)], point)
        if self.moving:  # several pictures, which the pipeline takes together
            return fitted
        return fitted * point.prompts if point.form == "lists" else fitted[0]


def how_to_give(name: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """What to type to give the argument, as its kind wants it."""
    text = "str" in str(parameters[name].annotation)
    ways = {
        "picture": "@photo.png",
        "mask": "@mask.png",
        "video": "@clip.mp4 or @FOLDER of pictures",
        "masks": "@clip.mp4 or @FOLDER of pictures, a mask for each frame",
        None: "TEXT, or @FILE"
        if text
        else "VALUE (JSON or text), @FILE of JSON, or zeros(2,768) for a tensor",
    }
    return f"--arg {name}={ways[kind(name, parameters)]}"


def missing(
    parameters: Mapping[str, inspect.Parameter], passed: Mapping[str, Any], words: str = ""
) -> Iterator[str]:
    """What a call that failed was made without, a line for each: what the error names, then visual arguments.

    Args:
        words: of the error; what it quotes is a name.
    """
    named = [name for name in re.findall(r"[`'\"](\w+)[`'\"]", words) if name in parameters]
    for name in dict.fromkeys((*named, *visuals(parameters))):
        if name not in passed:
            yield how_to_give(name, parameters)
