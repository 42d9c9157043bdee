"""Width, height and frames of a request, held to what an artifact's components take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from artifacts.manifest import DimRange
from runtimes.generate_options import check_range, synonym
from runtimes.visuals import kind, lengths

Limits = Mapping[str, DimRange]
"""As `Generator` is given them."""


def sides(
    size: tuple[int, int] | None, limits: Limits, parameters: Mapping[str, Any]
) -> tuple[int | None, int | None]:
    """Width and height to pass: those asked for, or those of an artifact that has only one size.

    Args:
        parameters: the pipeline's own parameters.

    Raises:
        UsageError: outside of `limits`.
    """
    if size is not None:
        check_range("a width of", size[0], limits, "width")
        check_range("a height of", size[1], limits, "height")
        return size
    width, height = (
        _fixed(limits, name) if synonym(name, parameters) else None for name in ("width", "height")
    )
    return width, height


def frame_count(frames: int | None, limits: Limits, parameters: Mapping[str, Any]) -> int | None:
    """The number of frames to pass: that asked for, or that of an artifact that has only one.

    Raises:
        UsageError: outside of `limits`.
    """
    if frames is not None:
        check_range("a request for", frames, limits, "frames")
        return frames
    return _fixed(limits, "frames") if synonym("frames", parameters) is not None else None


def numbers(
    size: tuple[int, int] | None,
    frames: int | None,
    extra: Mapping[str, Any],
    limits: Limits,
    parameters: Mapping[str, Any],
) -> dict[str, int | None]:
    """Width, height and frames to pass, apart from those in `extra`, which are in the compiled ranges, too.

    Raises:
        UsageError: outside of `limits`.
    """
    width, height = sides(size, limits, parameters)
    chosen = {"width": width, "height": height, "frames": frame_count(frames, limits, parameters)}
    requested = {"width": size, "height": size, "frames": frames}
    for option in chosen:
        value = extra.get(synonym(option, parameters) or "")
        if isinstance(value, int):
            subject = "a request for" if option == "frames" else f"a {option} of"
            check_range(subject, value, limits, option)
        if value is not None and requested[option] is None:
            chosen[option] = None
    return chosen


def check_visuals(values: Mapping[str, Any], limits: Limits, parameters: Mapping[str, Any]) -> None:
    """A video that is given sets the length, and an image the size where the pipeline has no parameter for it.

    Raises:
        UsageError: outside of `limits`.
    """
    for name, value in values.items():
        if name in parameters and kind(name, parameters) == "video":
            for length in lengths(value):
                check_range(f"'{name}' of", length, limits, "frames")
    image = values.get("image")
    if synonym("width", parameters) is not None or not isinstance(getattr(image, "size", None), tuple):
        return
    width, height = image.size  # type: ignore[union-attr]
    check_range("an image with a width of", width, limits, "width")
    check_range("an image with a height of", height, limits, "height")


def _fixed(limits: Limits, name: str) -> int | None:
    limit = limits.get(name)
    return limit.min if limit is not None and limit.min == limit.max else None
