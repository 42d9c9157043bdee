"""What stays open between turns, and what is closed for want of room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from bench.open_processes import Kept


@dataclass(frozen=True)
class One:
    name: str
    needed: int = 10


class Log:
    def __init__(self, fails: str = "") -> None:
        self.lines: list[str] = []
        self.fails = fails

    @contextmanager
    def opened(self, each: One) -> Iterator[str]:
        if each.name == self.fails:
            raise ValueError(each.name)
        self.lines.append(f"+{each.name}")
        try:
            yield each.name.upper()
        finally:
            self.lines.append(f"-{each.name}")


def asked(room: int, names: str, needed: int = 10) -> tuple[list[str], int]:
    log = Log()
    with Kept(room, log.opened) as kept:
        for name in names:
            assert kept.get(One(name, needed)) == name.upper()
        before = list(log.lines)
    assert sorted(line[1:] for line in log.lines if line[0] == "+") == sorted(
        line[1:] for line in log.lines if line[0] == "-"
    )
    return before, kept.reopened


def test_what_fits_is_opened_once() -> None:
    assert asked(30, "abccba") == (["+a", "+b", "+c"], 0)


def test_what_was_asked_for_longest_ago_makes_room() -> None:
    assert asked(20, "abcba") == (["+a", "+b", "-a", "+c", "-c", "+a"], 1)
    # The middle of A B C stays open all the time, since turns are taken A B C C B A.
    assert asked(20, "abccbaabc") == (["+a", "+b", "-a", "+c", "-c", "+a", "-a", "+c"], 2)


def test_one_alone_may_have_more_than_there_is() -> None:
    assert asked(5, "aab") == (["+a", "-a", "+b"], 0)


def test_what_is_dropped_is_closed_and_leaves_its_room() -> None:
    log = Log()
    with Kept(20, log.opened) as kept:
        kept.get(One("a"))
        kept.get(One("b"))
        kept.drop(One("a"))
        kept.drop(One("z"))
        kept.get(One("c"))
        assert log.lines == ["+a", "+b", "-a", "+c"]


def test_what_cannot_be_opened_is_not_kept_and_the_others_are_closed_with_the_error() -> None:
    log = Log(fails="b")
    with pytest.raises(ValueError, match="b"), Kept(100, log.opened) as kept:
        kept.get(One("a"))
        kept.get(One("b"))
    assert log.lines == ["+a", "-a"]
