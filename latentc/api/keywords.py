"""What the functions' keywords may be, and how they become what the work behind them is asked for."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union

from artifacts.argument_types import with_fields_fitted
from artifacts.error_text import value_text
from artifacts.errors import UsageError
from artifacts.foreseen import foreseen
from artifacts.progress import Progress

if TYPE_CHECKING:
    from artifacts.manifest import DimRange
    from compiler.capture.declared_sizes import SizeRange
    from latentc.params import Sizes, Span

File = Union[str, os.PathLike[str]]
Size = Union["SizeRange", "Sizes", str, int, tuple[int, int]]
Batch = Union["DimRange", "Span", str, int, tuple[int, int]]

Request = TypeVar("Request")


def changed(request: Request, keywords: Mapping[str, Any]) -> Request:
    """A copy of a frozen request with those keywords that are not None in their fields' places.

    Raises:
        UsageError: a field is not of its type.
    """
    wanted = {name: value for name, value in keywords.items() if value is not None}
    return with_fields_fitted(dataclasses.replace(request, **wanted))  # type: ignore[type-var]


def texts(options: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Values of options as a command line would have them."""
    return None if options is None else {name: str(value) for name, value in options.items()}


def json_texts(values: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Arguments of a pipeline's call as a command line would have them: texts as they are, else JSON.

    Raises:
        UsageError: JSON does not hold one.
    """
    return None if values is None else {name: _json(name, value) for name, value in values.items()}


def _json(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise UsageError(
            f"'{name}' of arguments is what JSON holds (a text, a number, a list); found {value_text(value)}."
        ) from None


def names(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """One name or several."""
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(dict.fromkeys(value))


def size_range(size: Size | None) -> SizeRange | None:
    """A size in pixels: "256..1024", (width, height), one number for both, or ranges.

    Raises:
        UsageError: none of these.
    """
    from artifacts.manifest import DimRange
    from compiler.capture.declared_sizes import SizeRange
    from latentc.params import Sizes

    if size is None or isinstance(size, SizeRange):
        return size
    if isinstance(size, Sizes):
        sizes: Sizes | None = size
    else:
        sizes = Sizes.parse("x".join(map(str, size)) if isinstance(size, tuple) else str(size))
    if sizes is None:
        raise UsageError(
            f"{size!r} is no size; it is (width, height) in pixels, '512x768' or a range: '256..1024'."
        )
    return SizeRange(
        width=DimRange(min=sizes.width.min, max=sizes.width.max),
        height=DimRange(min=sizes.height.min, max=sizes.height.max),
    )


def batch_range(batch: Batch | None) -> DimRange | None:
    """A number of pictures, or a range: "1..4", (1, 4).

    Raises:
        UsageError: neither.
    """
    return _range(batch, "batch")


def frame_range(frames: Batch | None) -> DimRange | None:
    """A number of frames, or a range: "9..17", (9, 17).

    Raises:
        UsageError: neither.
    """
    return _range(frames, "number of frames")


def token_range(tokens: Batch | None) -> DimRange | None:
    """A number of tokens, or a range: "77..308", (77, 308).

    Raises:
        UsageError: neither.
    """
    return _range(tokens, "number of tokens")


def _range(value: Batch | None, quantity: str) -> DimRange | None:
    from artifacts.manifest import DimRange
    from latentc.params import Span

    if value is None or isinstance(value, DimRange):
        return value
    if isinstance(value, Span):
        span: Span | None = value
    else:
        span = Span.parse("..".join(map(str, value)) if isinstance(value, tuple) else str(value))
    if span is None:
        raise UsageError(
            f"{value!r} is no {quantity}; it is a number of at least 1 or a range: '1..4', (1, 4)."
        )
    return DimRange(min=span.min, max=span.max)


def prompts(value: File | Sequence[str] | None) -> tuple[str, ...] | None:
    """Prompts themselves, or the lines of a file that are not blank.

    Raises:
        UsageError: there is none, or the file cannot be read.
    """
    from bench.prompts import read

    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        return read(Path(value))
    if not value:
        raise UsageError("a list of prompts holds one text or more; found none.")
    return tuple(value)


@contextmanager
def reporting(progress: Progress) -> Iterator[Progress]:
    """`progress`; in a notebook, bars where it is `silent`. What the system refuses is a `LatentcError`, but not
    what it refuses to `progress` itself."""
    from runtimes.callers_code import passed, passing
    from runtimes.notebook import notebook_bars

    with passed(), foreseen(), notebook_bars(progress) as bars, passing((progress,)):
        yield bars
