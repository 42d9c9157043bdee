"""The kinds of values that options take, parsed once and refused with what was expected."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import click

from artifacts.precisions import PRECISIONS
from artifacts.units import parse_bytes


def drawing_option(
    name: str, help: str, **settings: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--NAME`` of the commands that draw, whose values are of one kind in all of them.

    Args:
        name: a name in `_drawing_options`.
        settings: of `click.option`, what this command has of its own: a default, another kind.
    """
    return click.option(f"--{name}", help=help, **{**_drawing_options()[name], **settings})


def _drawing_options() -> dict[str, dict[str, Any]]:
    return {
        "negative": {"metavar": "TEXT"},
        "image": {"type": click.Path(), "metavar": "FILE"},
        "mask": {"type": click.Path(), "metavar": "FILE"},
        "strength": {"type": FiniteType(0, 1, min_open=True), "metavar": "NUMBER"},
        "steps": {"type": click.IntRange(1), "metavar": "N"},
        "guidance": {"type": FiniteType(0), "metavar": "NUMBER"},
        "seed": {"type": click.IntRange(0, 2**63 - 1), "metavar": "N"},
        "size": {"type": PixelsType(), "metavar": "WxH"},
        "task": {"metavar": "TASK"},
        "scheduler": {"metavar": "CLASS"},
    }


def argument_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--arg``: parameters of the pipeline's own call, as pairs of name and text."""
    return click.option(
        "--arg", "arguments", multiple=True, type=AssignmentType(), metavar="NAME=VALUE", help=help
    )


def json_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--json``: print JSON in the place of text."""
    return click.option("--json", "json_output", is_flag=True, help=help)


def compute_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--compute``: the type that graphs are computed in."""
    types = click.Choice(["auto", *PRECISIONS])
    return click.option("--compute", type=types, default="auto", show_default=True, help=help)


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--device``: one for all graphs, or one for each component."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="NAME|COMPONENT=NAME,...",
        help="Where to run (see: latentc targets), or where each component runs: unet=gpu,vae=cpu. auto: the first "
        "device that takes it.",
    )(command)


def strict_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--strict``: a device that refuses a component is an error."""
    return click.option(
        "--strict",
        is_flag=True,
        help="Fail where a device refuses a component. [default: the next device takes it, and a line says so]",
    )(command)


def memory_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--memory``: bytes that graphs may take."""
    return click.option("--memory", type=BytesType(), metavar="SIZE", help=help)


def tile_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--tile``: pictures decoded and encoded in tiles."""
    return click.option(
        "--tile",
        type=TileType(),
        default="auto",
        show_default=True,
        metavar="auto|off|PIXELS",
        help="Decode and encode pictures that are larger in overlapping tiles of so many pixels. auto: those that the "
        "graph or the memory does not take whole.",
    )(command)


def trust_engines_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--trust-engines``: artifacts may run code of a GPU's engines, in this command and the processes it starts."""

    def set_variable(context: click.Context, parameter: click.Parameter, chosen: bool) -> None:
        from artifacts.trusted_engines import TRUST

        if chosen:
            context.with_resource(_environment(TRUST, "1"))

    return click.option(
        "--trust-engines",
        is_flag=True,
        expose_value=False,
        callback=set_variable,
        help="Load TensorRT engines that were not compiled by you on this machine: they are code, which runs as you.",
    )(command)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


COMPUTE = (
    "What is computed in. auto: bf16 on processors that multiply in it, fp16 on GPUs and NPUs, else fp32; fp32 where "
    "weights are stored in fp32 or a check found that a graph needs it."
)


def accelerate_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--accelerate``: how far steps that are forecast may be off."""
    return click.option(
        "--accelerate",
        type=AccelerateType(),
        default="auto",
        show_default=True,
        metavar="off|auto|TOLERANCE",
        help=help,
    )


ACCELERATE = (
    "Steps whose denoiser calls are forecast from earlier ones: none, those that the artifact was tuned to do without "
    "(latentc tune; off where it was not), or as many as an estimated relative error allows, e.g. 0.1."
)


class Span(NamedTuple):
    """A range of whole numbers, both ends included; one number is a range of itself."""

    min: int
    max: int

    @classmethod
    def parse(cls, text: str) -> Span | None:
        """`"4"` or `"1..4"`; None when it is neither, or its ends are zero or the wrong way round."""
        match = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", text.strip(), re.ASCII)
        if match is None:
            return None
        low, high = int(match[1]), int(match[2] or match[1])
        return cls(low, high) if 1 <= low <= high else None


class Sizes(NamedTuple):
    """Ranges of a picture's width and height, in pixels."""

    width: Span
    height: Span

    @classmethod
    def parse(cls, text: str) -> Sizes | None:
        """`"512x768"` (width by height), `"256..1024"` (both) or `"256..1024x512..768"`; None when it is none."""
        spans = [Span.parse(part) for part in text.lower().split("x")]
        width, height = spans[0], spans[-1]
        return None if len(spans) > 2 or width is None or height is None else cls(width, height)


class SpanType(click.ParamType[Span]):
    """`4` or `1..4`."""

    name = "range"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Span:
        if isinstance(value, Span):
            return value
        span = Span.parse(str(value))
        if span is None:
            self.fail(
                f"'{value}' is no range; expected a number of at least 1 or MIN..MAX, e.g. 1..4.", param, ctx
            )
        return span


class SizesType(click.ParamType[Sizes]):
    """`512x768` (width by height), `256..1024` (both), or `256..1024x512..768`."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Sizes:
        if isinstance(value, Sizes):
            return value
        sizes = Sizes.parse(str(value))
        if sizes is None:
            self.fail(
                f"'{value}' is no size; expected WIDTHxHEIGHT or a range, e.g. 512x768, 256..1024, "
                "256..1024x512..768.",
                param,
                ctx,
            )
        return sizes


class PixelsType(click.ParamType[tuple[int, int]]):
    """`512x768`: width by height; `512` is a square."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", str(value).lower().strip(), re.ASCII)
        if match is None or not int(match[1]) or not int(match[2] or match[1]):
            self.fail(f"'{value}' is no size; expected WIDTHxHEIGHT, e.g. 512x768.", param, ctx)
        return int(match[1]), int(match[2] or match[1])


class FiniteType(click.FloatRange):
    """A number in a range: neither not-a-number nor an infinity, which a range without an end lets through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"'{value}' is no finite number.", param, ctx)
        return float(number)

    def _describe_range(self) -> str:
        """What help says of it; click has words for a range with an end alone."""
        return "" if self.min is None and self.max is None else super()._describe_range()


class BytesType(click.ParamType[int]):
    """`600M`, `1.5G`: bytes in decimal units; a plain number is bytes."""

    name = "bytes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        count = parse_bytes(str(value))
        if count is None:
            self.fail(f"'{value}' is no number of bytes; expected bytes, e.g. 600M or 1.5G.", param, ctx)
        return count


class AccelerateType(click.ParamType[str]):
    """`off`, `auto` or a number of at least 0."""

    name = "tolerance"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from artifacts.errors import UsageError
        from runtimes.acceleration import check_accelerate

        try:
            check_accelerate(str(value))
        except UsageError:
            self.fail(f"'{value}' is none of off, auto and a tolerance of at least 0, e.g. 0.1.", param, ctx)
        return str(value)


class TileType(click.ParamType[str]):
    """`auto`, `off` or a number of pixels."""

    name = "tile"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from artifacts.errors import UsageError
        from runtimes.tiles import parse_tile

        try:
            parse_tile(str(value))
        except UsageError:
            self.fail(f"'{value}' is none of auto, off and a number of pixels, e.g. 512.", param, ctx)
        return str(value)


class CountsType(click.ParamType[tuple[int, ...]]):
    """`20,50`: numbers of at least 1."""

    name = "counts"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(re.fullmatch(r"[1-9]\d{0,5}", part, re.ASCII) for part in parts):
            self.fail(
                f"'{value}' is no list of numbers; expected numbers of at least 1, e.g. 20,50.", param, ctx
            )
        return tuple(dict.fromkeys(map(int, parts)))


class AssignmentType(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE`."""

    name = "name=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, rest = str(value).partition("=")
        if not equals or not name.strip():
            self.fail(f"'{value}' is no assignment; expected NAME=VALUE.", param, ctx)
        return name.strip(), rest


def assignments(pairs: Iterable[tuple[str, str]], option: str) -> dict[str, str]:
    """The pairs as a dict; the same name twice is a usage error."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise click.BadParameter(f"'{name}' is given twice.", param_hint=f"'{option}'")
        values[name] = value
    return values
