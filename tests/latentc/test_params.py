from __future__ import annotations

import click
import pytest

from latentc.cli import COMMANDS, group
from latentc.params import (
    AssignmentType,
    BytesType,
    FiniteType,
    PixelsType,
    Sizes,
    SizesType,
    Span,
    SpanType,
    assignments,
)


@pytest.mark.parametrize(
    ("text", "width", "height"),
    [
        ("512x768", Span(512, 512), Span(768, 768)),
        ("512X768", Span(512, 512), Span(768, 768)),
        ("512", Span(512, 512), Span(512, 512)),
        ("256..1024", Span(256, 1024), Span(256, 1024)),
        ("256..1024x512..768", Span(256, 1024), Span(512, 768)),
        ("256..1024x512", Span(256, 1024), Span(512, 512)),
    ],
)
def test_sizes_are_width_by_height(text, width, height):
    assert SizesType().convert(text, None, None) == Sizes(width, height)


@pytest.mark.parametrize(
    "text", ["", "x", "512x", "x512", "0x64", "64..32", "1x2x3", "-64", "6４", "1...4", "a..b"]
)
def test_what_is_no_size_is_refused_with_the_forms(text):
    with pytest.raises(click.BadParameter, match="expected WIDTHxHEIGHT or a range"):
        SizesType().convert(text, None, None)


@pytest.mark.parametrize(("text", "span"), [("1", Span(1, 1)), ("1..4", Span(1, 4)), ("2..2", Span(2, 2))])
def test_spans(text, span):
    assert SpanType().convert(text, None, None) == span


@pytest.mark.parametrize("text", ["0", "4..1", "1..", "..4", "one", "1,4", "1e3"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(click.BadParameter, match="is no range"):
        SpanType().convert(text, None, None)


def test_pixels():
    assert PixelsType().convert("512x768", None, None) == (512, 768)
    assert PixelsType().convert("512", None, None) == (512, 512)
    for text in ("256..512", "0x8", "8x0", "x", ""):
        with pytest.raises(click.BadParameter, match="expected WIDTHxHEIGHT"):
            PixelsType().convert(text, None, None)


def test_assignments_keep_what_follows_the_first_equals_sign():
    pair = AssignmentType().convert("fix=height=512,width=512", None, None)
    assert assignments([pair], "--option") == {"fix": "height=512,width=512"}
    assert assignments([AssignmentType().convert("name=", None, None)], "--option") == {"name": ""}


@pytest.mark.parametrize("text", ["", "name", "=value", " =value"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(click.BadParameter, match="expected NAME=VALUE"):
        AssignmentType().convert(text, None, None)


def test_an_option_given_twice_is_refused():
    with pytest.raises(click.BadParameter, match="'fix' is given twice"):
        assignments([("fix", "a=1"), ("fix", "a=2")], "--option")


@pytest.mark.parametrize(
    ("text", "count"), [("600M", 600_000_000), ("1.5g", 1_500_000_000), ("12KB", 12_000), ("7", 7)]
)
def test_bytes(text, count):
    assert BytesType().convert(text, None, None) == count


@pytest.mark.parametrize("text", ["0", "M", "-5", "1.5X", "ten"])
def test_what_is_no_size_on_disk(text):
    with pytest.raises(click.BadParameter, match="no number of bytes"):
        BytesType().convert(text, None, None)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("kind", [FiniteType(), FiniteType(0, min_open=True)])
def test_what_is_no_finite_number_is_refused(kind, text):
    with pytest.raises(click.BadParameter, match="no finite number|not in the range"):
        kind.convert(text, None, None)


def test_all_numbers_of_commands_are_finite():
    """A range without an end, as click has it, takes NaN and infinity."""
    for name in COMMANDS:
        for command in flattened(group.get_command(click.Context(group), name)):
            for parameter in command.params:
                is_number = isinstance(parameter.type, click.types.FloatParamType)
                assert not is_number or isinstance(parameter.type, FiniteType), (name, parameter.name)


def flattened(command):
    """A command, or those in a group."""
    return command.commands.values() if isinstance(command, click.Group) else [command]


def test_help_says_no_range_where_there_is_none():
    @click.command()
    @click.option("--scale", type=FiniteType(), help="How much.")
    @click.option("--share", type=FiniteType(0, 1), help="How much of it.")
    def command(scale, share):
        """A command."""

    text = command.get_help(click.Context(command))
    assert "None" not in text
    assert "[0.0<=x<=1.0]" in text or "[0<=x<=1]" in text
