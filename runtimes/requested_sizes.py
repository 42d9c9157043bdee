"""Width, height and frames of a request, held to what an artifact's components take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from artifacts.manifest import DimRange
from runtimes.generate_options import check_range, parameters, synonym
from runtimes.visuals import kind, lengths

Limits = Mapping[str, DimRange]
"""As `Generator` is given them."""

OWN_SIDES = (
    ("default_sample_size", "vae_scale_factor"),
    ("unet.config.sample_size", "vae_scale_factor"),
    ("transformer.config.sample_size", "vae_scale_factor"),
    ("image_unet.config.sample_size", "vae_scale_factor"),
    ("transformer.config.sample_{side}", "vae_scale_factor_spatial"),
)
"""What diffusers' pipelines multiply, within their calls, for the side of a picture that nobody asked for."""


def sides(
    size: tuple[int, int] | None, limits: Limits, pipe: Any, image: Any = None
) -> tuple[int | None, int | None]:
    """Width and height to pass: those asked for, or where the artifact does not have the pipeline's own, the picture's
    that it starts from, or the nearest to its own.

    Args:
        pipe: one of diffusers' pipelines.
        image: what it starts from; a PIL image, or anything else, which has no size here.

    Returns:
        None for a side that is left to the pipeline.

    Raises:
        UsageError: outside of `limits`.
    """
    if size is not None:
        check_range("a width of", size[0], limits, "width")
        check_range("a height of", size[1], limits, "height")
        return size
    width, height = _side(limits, "width", pipe), _side(limits, "height", pipe)
    picture = getattr(image, "size", None)
    if (width is None and height is None) or not isinstance(picture, tuple):
        return width, height
    spans = (limits.get("width"), limits.get("height"))
    fits = all(span is None or side in span for span, side in zip(spans, picture, strict=True))
    return picture if fits else (width, height)


def _side(limits: Limits, name: str, pipe: Any) -> int | None:
    signature = parameters(pipe)
    parameter, span = synonym(name, signature), limits.get(name)
    if parameter is None or span is None:
        return None
    if span.min == span.max:
        return span.min
    default = signature[parameter].default
    own = default if isinstance(default, int) else _own_side(pipe, name)
    return None if own is None or own in span else span.nearest(own)[-1]


def _own_side(pipe: Any, name: str) -> int | None:
    """The side of a picture that a pipeline's call makes by default; None where that is not known."""
    for path, factor in OWN_SIDES:
        value = pipe
        for part in path.format(side=name).split("."):
            value = getattr(value, part, None)
        if isinstance(value, int):
            return value * int(getattr(pipe, factor, 1))
    return None


def frame_count(frames: int | None, limits: Limits, signature: Mapping[str, Any]) -> int | None:
    """The number of frames to pass: that asked for, or that of an artifact that has only one.

    Raises:
        UsageError: outside of `limits`.
    """
    if frames is not None:
        check_range("a request for", frames, limits, "frames")
        return frames
    return _fixed(limits, "frames") if synonym("frames", signature) is not None else None


def numbers(
    size: tuple[int, int] | None,
    frames: int | None,
    image: Any,
    extra: Mapping[str, Any],
    limits: Limits,
    pipe: Any,
) -> dict[str, int | None]:
    """Width, height and frames to pass, apart from those in `extra`, which are in the compiled ranges, too.

    Raises:
        UsageError: outside of `limits`.
    """
    signature = parameters(pipe)
    width, height = sides(size, limits, pipe, image)
    chosen = {"width": width, "height": height, "frames": frame_count(frames, limits, signature)}
    requested = {"width": size, "height": size, "frames": frames}
    for option in chosen:
        value = extra.get(synonym(option, signature) or "")
        if isinstance(value, int):
            subject = "a request for" if option == "frames" else f"a {option} of"
            check_range(subject, value, limits, option)
        if value is not None and requested[option] is None:
            chosen[option] = None
    return chosen


def unasked(limits: Limits, pipe: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """The size and the frames that a call of diffusers' own leaves out, by its names of them; see `sides`."""
    signature = parameters(pipe)
    width, height = sides(None, limits, pipe, kwargs.get("image"))
    size = {"width": width, "height": height}
    if (counter := synonym("frames", signature)) is not None:
        size[counter] = frame_count(None, limits, signature)
    passed = {*list(signature)[: len(args)], *kwargs}
    return {name: value for name, value in size.items() if value is not None and name not in passed}


def check_visuals(values: Mapping[str, Any], limits: Limits, signature: Mapping[str, Any]) -> None:
    """A video that is given sets the length, and an image the size where the pipeline has no parameter for it.

    Raises:
        UsageError: outside of `limits`.
    """
    for name, value in values.items():
        if name in signature and kind(name, signature) == "video":
            for length in lengths(value):
                check_range(f"'{name}' of", length, limits, "frames")
    image = values.get("image")
    if synonym("width", signature) is not None or not isinstance(getattr(image, "size", None), tuple):
        return
    # Pipelines cut a picture down to a size that their autoencoders take, so that a step is not looked at yet.
    ends = {name: span.model_copy(update={"step": 1}) for name, span in limits.items()}
    width, height = image.size  # type: ignore[union-attr]
    check_range("an image with a width of", width, ends, "width")
    check_range("an image with a height of", height, ends, "height")


def _fixed(limits: Limits, name: str) -> int | None:
    limit = limits.get(name)
    return limit.min if limit is not None and limit.min == limit.max else None
