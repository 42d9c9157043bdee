"""What is told of an error of somebody else's."""

from __future__ import annotations

import pytest

from artifacts.error_text import causes, class_and_line, class_and_text, one_line


def raised_from() -> ValueError:
    try:
        try:
            raise OSError("the first")
        except OSError:
            raise KeyError("while that was handled")  # noqa: B904
    except KeyError as error:
        last = ValueError("the last")
        last.__cause__ = error
        return last


def test_the_chain_of_an_error_begins_with_the_error() -> None:
    assert [type(link) for link in causes(raised_from())] == [ValueError, KeyError, OSError]


def test_what_an_error_was_raised_from_comes_before_what_was_handled_meanwhile() -> None:
    error = raised_from()
    error.__context__ = RuntimeError("another")
    assert [type(link) for link in causes(error)] == [ValueError, KeyError, OSError]


def test_a_chain_that_leads_back_to_itself_ends() -> None:
    error = raised_from()
    *_, first = causes(error)
    first.__cause__ = error
    assert [type(link) for link in causes(error)] == [ValueError, KeyError, OSError]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Two lines,\n\n   and their   spaces. ", "Two lines, and their spaces"),
        ("no more...", "no more"),
        ("x" * 20, "x" * 20),
        ("x" * 21, "x" * 17 + "..."),
        (" \n", "ValueError"),
    ],
)
def test_all_that_an_error_says_is_one_line(text: str, line: str) -> None:
    assert one_line(ValueError(text), 20 if "x" in text else 200) == line


def test_the_class_is_told_once() -> None:
    assert class_and_text(KeyError("unet")) == "KeyError: 'unet'"
    assert class_and_line(RuntimeError("\nthe first\nthe second")) == "RuntimeError: the first"
    assert class_and_text(AssertionError()) == class_and_line(AssertionError()) == "AssertionError"
