"""What is told of an error of somebody else's."""

from __future__ import annotations

from artifacts.error_text import causes


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
