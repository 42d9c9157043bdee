"""Pictures as PNG files that carry their parameters, and the names of files that are written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from artifacts.command_words import quoted
from artifacts.errors import UsageError
from latentc.whole_file import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

TEXT_KEY = "parameters"
"""The PNG text chunk that people and other programs read."""

JSON_KEY = "latentc"
"""The PNG text chunk with the same as JSON."""

# Parameters that the readable text leaves out or puts first.
_FIRST = ("prompt", "negative_prompt")


def template(output: str, count: int, suffixes: Sequence[str] = (".png",)) -> str:
    """The file name that `count` pictures are made from, checked; `numbered` fills it in.

    `{index}` (or `{index:03}`) is the picture's number from 0. A name without it gets `-{index}` before its
    suffix when there is more than one picture.

    Raises:
        UsageError: a name with another suffix, a brace that is not `{index}`, or a folder that does not exist.
    """
    path = Path(output)
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"the output must be a .png file, which carries its parameters; found '{output}'.",
            "For instance: -o out.png",
        )
    name = output
    if "{" not in output and count > 1:
        name = str(path.with_name(f"{path.stem}-{{index}}{path.suffix}"))
    _check_braces(output)
    first, second = numbered(name, 0), numbered(name, 1)
    if first == second and count > 1:
        raise UsageError(
            f"'{output}' names one file for {count} pictures.", "For instance: -o out-{index}.png"
        )
    if not first.parent.is_dir():
        make = "mkdir" if os.name == "nt" or first.parent.parent.is_dir() else "mkdir -p"
        raise UsageError(
            f"the folder '{first.parent}' does not exist.", f"Make it: {make} {quoted(first.parent)}"
        )
    return name


def _check_braces(output: str) -> None:
    try:
        fields = [
            (name, spec, conversion)
            for _, name, spec, conversion in Formatter().parse(output)
            if name is not None
        ]
    except ValueError:  # a brace that is not closed
        fields = [("", "", None)]
    # A width has two digits: no disk takes a longer name, and Python would make it of any length.
    if not all(
        name == "index" and conversion is None and re.fullmatch(r"\d{0,2}d?", spec or "", re.ASCII)
        for name, spec, conversion in fields
    ):
        raise UsageError(
            f"'{output}' is no file name: only {{index}} may stand in braces, or {{index:03}} for three digits.",
            "For instance: -o out-{index:03}.png",
        )


def numbered(template: str, index: int) -> Path:
    """Where picture number `index` goes, given what `template` returned."""
    return Path(template.format(index=index))


def describe(parameters: Mapping[str, Any]) -> str:
    """The parameters as people write them: prompt, negative prompt, then "Steps: 20, Seed: 7, ..."."""
    lines = [str(parameters.get("prompt") or "")]
    if parameters.get("negative_prompt"):
        lines.append(f"Negative prompt: {parameters['negative_prompt']}")
    rest = {
        key.replace("_", " ").capitalize(): value
        for key, value in parameters.items()
        if key not in _FIRST and value is not None
    }
    lines.append(", ".join(f"{key}: {value}" for key, value in rest.items()))
    return "\n".join(line for line in lines if line)


def png_text(parameters: Mapping[str, Any]) -> PngInfo:
    """The text chunks of a PNG that carries its parameters."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    # iTXt: prompts are in any language, tEXt holds Latin-1 only.
    info.add_itxt(TEXT_KEY, describe(parameters))
    info.add_itxt(JSON_KEY, json.dumps(dict(parameters), ensure_ascii=False))
    return info


def write(image: Image, path: Path, parameters: Mapping[str, Any]) -> None:
    """Writes a PNG with its parameters as text; a picture that was there is replaced in one step.

    Raises:
        LatentcError: it cannot be written.
    """
    info = png_text(parameters)
    with whole_file(path) as partial:
        image.save(partial, format="PNG", pnginfo=info)
