"""What an error of somebody else's says, as one line of a message of ours, and what it was raised from."""

from __future__ import annotations

from collections.abc import Iterator


def first_lines(error: BaseException, count: int = 1) -> str:
    """The first lines of its text that are not blank, as one line; the name of its class where it has no text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:count]) or type(error).__name__


def class_and_line(error: BaseException) -> str:
    """The name of its class, and the first line of its text, if it has one."""
    name, line = type(error).__name__, first_lines(error)
    return name if line == name else f"{name}: {line}"


def one_line(error: BaseException, most: int = 200) -> str:
    """Its text as one line, without a full stop; the name of its class where it has no text.

    Args:
        most: characters; what is longer is cut.
    """
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


def class_and_text(error: BaseException, most: int = 300) -> str:
    """The name of its class, and its text as `one_line` has it; the name alone where it has no text."""
    name, text = type(error).__name__, one_line(error, most)
    return name if text == name else f"{name}: {text}"


def value_text(value: object, most: int = 80) -> str:
    """A value that was found where another was required, in one line.

    Args:
        most: characters; what is longer is cut.
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # A class may write itself in any way, and fail.
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and after it each that the one before was raised from, or raised while handling."""
    seen: set[int] = set()  # A chain may lead back to itself.
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
