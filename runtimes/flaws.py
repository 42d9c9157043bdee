"""Pictures that went wrong: of numbers that are not finite, black, of one colour, or of nothing between two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from artifacts.command_words import quoted
from artifacts.manifest import GraphRecord, Manifest

if TYPE_CHECKING:
    import numpy as np

    from runtimes.meter import NotFinite
    from targets.target_contract import Requirements

Kind = Literal["not finite", "black", "one colour", "saturated"]

BLACK = 2
"""A picture with no colour of any pixel above this (of 255) is black."""

SATURATED = 64
"""A picture of more pixels than this, each of whose channels has two values at most, was cut off: numbers that overflow
end at the lower or the upper end of the range. What a decoder draws has edges, whose pixels lie between."""


@dataclass(frozen=True)
class Flaw:
    """Something that is wrong with pictures, or very likely so.

    Attributes:
        kind: "not finite": a component returned NaN or infinity after the denoising, whatever the pictures show.
            "black", "one colour" and "saturated": what they show, of finite numbers; that can be right.
        images: indices into `Result.images` of the pictures that are black or of one colour.
        method: the component's method that returned them ("vae.decode"); empty for the other kinds.
        message: what was found, for people.
        hint: the likely cause, and the next command to type.
    """

    kind: Kind
    images: tuple[int, ...]
    method: str
    message: str
    hint: str


def shown(picture: np.ndarray) -> Kind | None:
    """What is wrong with a picture, [height, width, channels] in uint8 or in floats from 0 to 1."""
    import numpy as np

    from targets.graph.finite import all_finite

    if not all_finite(picture):
        return "not finite"
    pixels = picture.reshape(-1, picture.shape[-1]).astype(np.float64)
    scale = 1 if picture.dtype == np.uint8 else 255
    pixels = np.round(pixels * scale)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    if (kind := _blank(list(zip(low, high, strict=True)), len(pixels), BLACK)) is not None:
        return kind
    return "saturated" if len(pixels) > SATURATED and ((pixels == low) | (pixels == high)).all() else None


def _blank(bands: Sequence[tuple[float, float]], pixels: int, black: float) -> Kind | None:
    """Of the smallest and largest value of each channel. A single pixel always is of one colour."""
    if max(high for _, high in bands[:3]) <= black:
        return "black"
    return "one colour" if pixels > 1 and all(low == high for low, high in bands) else None


def _pictured(image: Any) -> Kind | None:
    """The same of a PIL image of any mode."""
    extrema = image.getextrema()
    bands = list(extrema) if isinstance(extrema[0], tuple) else [extrema]
    count = image.width * image.height
    # Depths and the like are of any scale.
    kind = _blank(bands, count, 0 if image.mode in ("F", "I") else BLACK)
    if kind is None and image.mode in _EIGHT_BITS and count > SATURATED:
        values = image.histogram()
        ranges = (values[start : start + 256] for start in range(0, len(values), 256))
        return "saturated" if all(sum(map(bool, band)) <= 2 for band in ranges) else None
    return kind


# Modes of PIL whose channels have 256 values each; one of two values alone ("1") is a mask.
_EIGHT_BITS = frozenset({"L", "RGB", "RGBA"})


def find(
    images: Sequence[Any],
    count: int,
    broken: Sequence[NotFinite],
    outputs: Mapping[str, Any],
    manifest: Manifest,
    root: Path,
    computes: Mapping[str, str],
) -> tuple[Flaw, ...]:
    """What is wrong with what a pipeline drew.

    Args:
        images: PIL images; `count` pictures, or videos of equally many frames. A video is of one colour where all of
            its frames are.
        broken: calls after the denoising that returned NaN or infinity.
        outputs: what the pipeline returned beside them.
        root: the artifact's folder.
        computes: graph folder -> the type that it was computed in.
    """
    artifact = _Artifact(manifest, root, computes)
    frames = max(1, len(images) // max(count, 1))
    kinds = [_pictured(image) for image in images]
    blank: dict[Kind, list[int]] = {}
    for start in range(0, len(images), frames):
        group = kinds[start : start + frames]
        if None not in group:
            kind: Kind = "black" if set(group) == {"black"} else "one colour"
            if "saturated" in group:
                kind = "saturated"
            blank.setdefault(kind, []).extend(range(start, start + len(group)))
    if broken:
        return (_not_finite(broken[0], blank, len(images), artifact),)
    return tuple(
        Flaw(
            kind,
            tuple(numbers),
            "",
            f"{_count({kind: numbers}, len(images))}.",
            _held_back(outputs, numbers, frames)
            or f"Where that is not what was asked for, {artifact.cause('')}",
        )
        for kind, numbers in blank.items()
    )


def _not_finite(
    report: NotFinite, blank: Mapping[Kind, Sequence[int]], images: int, artifact: _Artifact
) -> Flaw:
    numbers = tuple(sorted(number for pictures in blank.values() for number in pictures))
    message = f"'{report.method}' returned numbers that are not finite"
    culprit = report.method
    if not report.inputs_finite:
        culprit = report.before
        message += ", as what it was given was not finite" + (
            f": '{culprit}' was the first to return such" if culprit else ""
        )
    if numbers:
        message += f"; {_count(blank, images)}"
    cause = artifact.cause(culprit)
    return Flaw("not finite", numbers, report.method, f"{message}.", cause[0].upper() + cause[1:])


def words(kind: Kind) -> str:
    """The kind behind "the picture is"."""
    return {"one colour": "of one colour", "saturated": "cut off at both ends of its colours"}.get(kind, kind)


def _count(blank: Mapping[Kind, Sequence[int]], images: int) -> str:
    """ "the picture is black", "2 of 3 pictures are of one colour"."""
    appearance = words(next(iter(blank))) if len(blank) == 1 else "of one colour"
    if images == 1:
        return f"the picture is {appearance}"
    number = sum(len(numbers) for numbers in blank.values())
    return f"{number if number < images else 'all'} of {images} pictures are {appearance}"


def _held_back(outputs: Mapping[str, Any], numbers: Sequence[int], frames: int) -> str:
    """Diffusers' safety checkers paint black what they flag, and say so in the pipeline's output."""
    flags = outputs.get("nsfw_content_detected")
    if isinstance(flags, (list, tuple)) and all(
        at // frames < len(flags) and flags[at // frames] is True for at in numbers
    ):
        return "The pipeline's safety checker held it back: try another prompt or seed."
    return ""


@dataclass(frozen=True)
class _Artifact:
    """What the likely cause of a flaw is read from."""

    manifest: Manifest
    root: Path
    computes: Mapping[str, str]

    def cause(self, method: str) -> str:
        """The likely cause and the next command.

        Args:
            method: the one that went wrong; empty where that is not known.
        """
        graphs = self._graphs(method)
        kinds = {self.computes.get(graph.folder, graph.precision) for graph in graphs}
        again = f"latentc compile {quoted(self.manifest.source.id)} OUT --target {self.manifest.target}"
        if "fp16" in kinds:
            why = "most likely something overflows fp16, which holds no number above 65504."
            requirements = self._requirements()
            if requirements is not None and requirements.typed == "weights":
                return f'{why} Draw it in fp32: --compute fp32, in Python load(..., compute="fp32").'
            wide = "bf16" if requirements is not None and "bf16" in requirements.precisions else "fp32"
            return f"{why} Compile it in a type of more range: {again} --precision {wide}"
        if any(graph.weights for graph in graphs):
            return f"most likely weights have too few bits. Compile it without --quantize: {again}"
        return f"compare it with PyTorch: latentc verify {quoted(self.root)} --numerics"

    def _graphs(self, method: str) -> list[GraphRecord]:
        """Those that answer `method`, or else all."""
        component, _, name = method.partition(".")
        folders = {
            record.graph
            for owner in self.manifest.components
            if owner.name == component
            for record in owner.methods
            if record.method == name
        }
        return [graph for graph in self.manifest.graphs if not folders or graph.folder in folders]

    def _requirements(self) -> Requirements | None:
        """The target's; None for one of a package that is not installed here."""
        from artifacts.errors import LatentcError
        from targets import target_table

        try:
            return target_table.get(self.manifest.target).requirements
        except LatentcError:
            return None
