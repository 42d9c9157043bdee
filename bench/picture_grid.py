"""Grids: the same picture over up to three options, as one labelled sheet and a table; resumable."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from artifacts import named_files
from artifacts.disk import existing_folder
from artifacts.errors import LatentcError, UsageError
from artifacts.foreseen import foreseen
from artifacts.hub_artifacts import located
from artifacts.manifest import MANIFEST_NAME
from artifacts.progress import Event, Progress, silent
from artifacts.publish import check_parents, require_outside
from runtimes import clips
from runtimes.acceleration import check_accelerate
from runtimes.generate_options import parse_value

if TYPE_CHECKING:
    from PIL.Image import Image

CELLS, SHEET, TABLE = "cells", "grid.png", "grid.csv"
KEY = "grid_key"
GAP, MARGIN, LINE = 6, 10, 20


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _accelerate(text: str) -> str:
    check_accelerate(text)
    return text


# What an option's values are. Options that are not here are the pipeline's own: JSON where it is JSON, else text.
KINDS: Mapping[str, Callable[[str], Any]] = {
    "artifact": str,
    "device": str,
    "compute": str,
    "accelerate": _accelerate,
    "prompt": str,
    "negative_prompt": str,
    "steps": int,
    "guidance": _finite,
    "strength": _finite,
    "seed": int,
    "size": str,
    "scheduler": str,
}
OBJECTS = frozenset({"image", "mask", "cancel", "progress"})
"""Options of `generate` whose values cannot be written on a command line."""
MOST = 10_000
"""Pictures on a sheet."""
PLACES = ("artifact", "device", "compute")
"""Options that choose a pipeline; all others are given to its `generate`."""


@dataclass(frozen=True)
class Axis:
    """One option and the values that it takes, in the order of the sheet."""

    option: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """`steps=4,8,20`, or with a JSON list where values hold commas: `prompt=["a, b", "c"]`.

        Raises:
            UsageError: it is no such thing, or a value is not one of the option's.
        """
        name, equals, rest = text.partition("=")
        option = {"negative": "negative_prompt"}.get(name.strip(), name.strip())
        hint = "For instance: --x steps=4,8,20"
        if not equals or not option:
            raise UsageError(f"'{text}' is no axis; expected OPTION=VALUE,VALUE.", hint)
        if option in OBJECTS:
            raise UsageError(f"'{option}' is no axis: its values are no texts.", hint)
        parts = _json(rest) if rest.lstrip().startswith("[") else None
        texts = parts if isinstance(parts, list) else [part.strip() for part in rest.split(",")]
        if not texts or any(part == "" for part in texts):
            raise UsageError(f"'{text}' has an empty value.", hint)
        values = tuple(_value(option, part) for part in texts)
        if len({json.dumps(value) for value in values}) < len(values):
            raise UsageError(f"'{text}' names a value twice.", hint)
        return cls(option, values)


@dataclass(frozen=True)
class Grid:
    """What to draw: `base` holds the options that are the same everywhere, "artifact" among them."""

    axes: tuple[Axis, ...]
    base: Mapping[str, Any]

    def __post_init__(self) -> None:
        names = [axis.option for axis in self.axes]
        if not 1 <= len(names) <= 3:
            raise UsageError(
                "a grid has one to three axes.", "For instance: --x steps=4,8 --y guidance=1,4,7"
            )
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"'{name}' is on two axes.")
        if (count := math.prod(len(axis.values) for axis in self.axes)) > MOST:
            raise UsageError(f"a grid of {count:,} pictures is too large; it has at most {MOST:,}.")
        if "artifact" not in names and not self.base.get("artifact"):
            raise UsageError("a grid needs an ARTIFACT, or an axis of them: --x artifact=out1,out2")

    def cells(self) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
        """Each cell's place (x, y, z: as many as there are axes) and its options."""
        for place in product(*(range(len(axis.values)) for axis in self.axes)):
            chosen = {axis.option: axis.values[i] for axis, i in zip(self.axes, place, strict=True)}
            yield place, {**self.base, **chosen}


@dataclass(frozen=True)
class Cell:
    """A picture that was drawn: its file in the grid's folder, seconds, and milliseconds of a step."""

    place: tuple[int, ...]
    file: str
    seconds: float
    step_ms: float | None
    resumed: bool


class Drawer(Protocol):
    """What a grid needs of `runtimes.pipeline.Pipeline`."""

    def generate(self, prompt: str | None = None, **keywords: Any) -> Any:
        """Draws."""

    def close(self) -> None:
        """Frees it."""


Loader = Callable[[Path, str, str], Drawer]
Writer = Callable[["Image", Path, Mapping[str, Any]], None]


def run(
    grid: Grid, out: Path, load: Loader, write: Writer, progress: Progress = silent, side: int = 256
) -> list[Cell]:
    """Draws every cell that is not there yet, then the sheet and the table.

    Args:
        out: a folder; pictures go to out/cells, one file for each cell, named by what made it.
        load: (the artifact's folder, device, compute) -> a pipeline.
        write: writes a picture with its parameters.
        side: the longest side of a picture in the sheet, in pixels.

    Raises:
        UsageError: an option that a pipeline does not have, or `out` is no folder, or an artifact's.
        LatentcError: a file cannot be written, an artifact is none or cannot be fetched, or a pipeline draws no
            picture.
    """
    folder = out / CELLS
    require_outside(folder)
    _require_room(folder)
    by_place: dict[tuple[int, ...], Cell] = {}
    missing: list[tuple[tuple[int, ...], dict[str, Any], str]] = []
    folders: dict[str, Path] = {}
    digests: dict[str, str] = {}
    for place, options in grid.cells():
        name = options["artifact"]
        if name not in folders:
            folders[name] = located(name, progress).absolute()
            digests[name] = _digest(folders[name])
        key = _key(options, digests[name])
        cell = _drawn(folder, place, key)
        if cell is not None:
            by_place[place] = cell
        else:
            missing.append((place, options, key))
    total = len(by_place) + len(missing)
    if by_place and missing:
        progress(Event(f"{len(by_place)} of {total} pictures are there already", 1, 1))
    # One pipeline at a time: several models may not fit into memory together.
    missing.sort(key=lambda job: [str(job[1].get(name)) for name in PLACES])
    for (name, device, compute), group in groupby(missing, key=lambda job: _places(job[1])):
        drawer = load(folders[name], device, compute)
        try:
            for place, options, key in group:
                progress(Event("drawing the grid", len(by_place), total, "pictures"))
                by_place[place] = _draw(drawer, place, options, key, folder, write)
        finally:
            drawer.close()
    progress(Event("drawing the grid", total, total, "pictures"))
    cells = [by_place[place] for place, _ in grid.cells()]
    _table(grid, cells, out / TABLE)
    sheet(grid, {cell.place: out / cell.file for cell in cells}, side).save(out / SHEET, optimize=True)
    return cells


def _require_room(folder: Path) -> None:
    """Whether a folder is there or can be made; it is made with the first picture, as a wrong request leaves nothing.

    Raises:
        UsageError: a file is in its place.
        LatentcError: nothing may be written where it would be.
    """
    with foreseen():
        check_parents(folder / SHEET)
    existing = existing_folder(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise LatentcError(f"{folder} cannot be made: {existing} may not be written to.", "Name another OUT.")


def sheet(grid: Grid, files: Mapping[tuple[int, ...], Path], side: int = 256) -> Image:
    """All pictures in one: x to the right, y downwards, a panel for each z; every row and column labelled."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(14)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    axes = [*grid.axes, *[None] * (3 - len(grid.axes))]
    x, y, z = axes
    assert x is not None
    ys, zs = [len(axis.values) if axis else 1 for axis in (y, z)]
    pictures = {place: _fit(Image.open(file), side) for place, file in files.items()}
    width = max(picture.width for picture in pictures.values())
    height = max(picture.height for picture in pictures.values())
    left = max((_width(pen, font, _label(y, i)) for i in range(ys)), default=0) + MARGIN if y else 0
    left = min(left, 2 * side)
    top = LINE + (LINE if z else 0)
    panel = (left + len(x.values) * (width + GAP), top + ys * (height + GAP))
    canvas = Image.new(
        "RGB", (2 * MARGIN + zs * panel[0] + (zs - 1) * 3 * MARGIN, 2 * MARGIN + panel[1]), "white"
    )
    pen = ImageDraw.Draw(canvas)
    for k in range(zs):
        ox, oy = MARGIN + k * (panel[0] + 3 * MARGIN), MARGIN
        if z:
            text = _cut(pen, font, _label(z, k), panel[0] - left)
            pen.text((ox + left, oy), text, fill="black", font=font)
        for i in range(len(x.values)):
            text = _cut(pen, font, _label(x, i), width)
            pen.text((ox + left + i * (width + GAP), oy + top - LINE), text, fill="#334155", font=font)
            for j in range(ys):
                place = (i, j, k)[: len(grid.axes)]
                at = (ox + left + i * (width + GAP), oy + top + j * (height + GAP))
                canvas.paste(pictures[place], at)
        for j in range(ys if y else 0):
            text = _cut(pen, font, _label(y, j), left - GAP)
            pen.text(
                (ox, oy + top + j * (height + GAP) + height // 2),
                text,
                fill="#334155",
                font=font,
                anchor="lm",
            )
    return canvas


def _places(options: Mapping[str, Any]) -> tuple[str, str, str]:
    """The artifact's name, its device and type."""
    return options["artifact"], options.get("device", "auto"), options.get("compute", "auto")


def _draw(
    drawer: Drawer, place: tuple[int, ...], options: Mapping[str, Any], key: str, folder: Path, write: Writer
) -> Cell:
    arguments = {name: value for name, value in options.items() if name not in PLACES and value is not None}
    result = drawer.generate(**arguments)
    if not result.images:
        raise LatentcError(
            "the pipeline returned no pictures, so there is no grid to draw.",
            "Use the artifact of a whole pipeline, not of a prior.",
        )
    steps = sorted(result.timings.steps)
    step_ms = steps[len(steps) // 2] * 1000 if steps else None
    parameters = {
        **result.parameters, "artifact": options["artifact"], "device": options["device"], KEY: key,
        "seconds": result.timings.total, "step_ms": step_ms,
    }  # fmt: skip
    picture = clips.strip(result.frames[0]) if result.frames else result.images[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LatentcError(f"{folder} cannot be made: {error.strerror or error}.") from None
    write(picture, folder / f"{key}.png", parameters)
    return Cell(place, f"{CELLS}/{key}.png", result.timings.total, step_ms, resumed=False)


def _drawn(folder: Path, place: tuple[int, ...], key: str) -> Cell | None:
    """The cell, if its file is there and whole."""
    from PIL import Image

    file = folder / f"{key}.png"
    try:
        with Image.open(file) as picture:
            picture.load()
            parameters = json.loads(picture.info.get("latentc", "null"))
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError):
        return None
    if not isinstance(parameters, dict) or parameters.get(KEY) != key:
        return None
    seconds, step_ms = parameters.get("seconds"), parameters.get("step_ms")
    if not isinstance(seconds, (int, float)) or not isinstance(step_ms, (int, float, type(None))):
        return None
    return Cell(place, f"{CELLS}/{key}.png", seconds, step_ms, resumed=True)


def _key(options: Mapping[str, Any], digest: str) -> str:
    """What names a cell's file: all options, and what the artifact holds rather than where it lies."""
    plain = {
        name: _fingerprint(value)
        for name, value in sorted(options.items())
        if name != "artifact" and value is not None
    }
    text = json.dumps([digest, plain], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _fingerprint(value: Any) -> Any:
    """A value as JSON; of a picture, its pixels' digest."""
    if hasattr(value, "tobytes") and hasattr(value, "size"):
        return [value.size, hashlib.sha256(value.tobytes()).hexdigest()]
    return value


def _digest(artifact: Path) -> str:
    """Of the manifest, which holds the digest of every other file."""
    try:
        return hashlib.sha256(named_files.read_bytes(artifact / MANIFEST_NAME)).hexdigest()
    except OSError:
        raise LatentcError(
            f"{artifact} is no artifact: it has no {MANIFEST_NAME}.", "Make one: latentc compile MODEL OUT"
        ) from None


def _table(grid: Grid, cells: Sequence[Cell], file: Path) -> None:
    """One line for each cell."""
    columns = [*(axis.option for axis in grid.axes), "file", "seconds", "step_ms"]
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        for cell in cells:
            values = [axis.values[i] for axis, i in zip(grid.axes, cell.place, strict=True)]
            step = "" if cell.step_ms is None else f"{cell.step_ms:.3f}"
            writer.writerow([*values, cell.file, f"{cell.seconds:.4f}", step])


def _value(option: str, part: Any) -> Any:
    kind = KINDS.get(option)
    if kind is None:
        return _json(part) if isinstance(part, str) else part
    try:
        return kind(part)
    except (TypeError, ValueError):
        raise UsageError(
            f"'{part}' is no value of '{option}'; expected {'a number' if kind is _finite else 'a whole number'}."
        ) from None


def _json(text: str) -> Any:
    return parse_value(text, "an axis")


def _label(axis: Axis | None, index: int) -> str:
    if axis is None:
        return ""
    value = axis.values[index]
    shown = Path(value).name if axis.option == "artifact" else value
    return f"{axis.option} {shown:g}" if isinstance(shown, float) else f"{axis.option} {shown}"


def _fit(picture: Image, side: int) -> Image:
    from PIL import Image

    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Whole multiples stay crisp; anything else is smoothed.
    how = Image.Resampling.NEAREST if scale >= 1 and scale == int(scale) else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, how)


def _width(pen: Any, font: Any, text: str) -> int:
    return int(pen.textlength(text, font=font)) + 1


def _cut(pen: Any, font: Any, text: str, width: int) -> str:
    """The text, shortened to what `width` pixels hold."""
    if _width(pen, font, text) <= width:
        return text
    while text and _width(pen, font, text + "...") > width:
        text = text[:-1]
    return text + "..."
