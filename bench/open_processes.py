"""Processes that stay open between their turns, as many as fit in memory together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Generic, Protocol, TypeVar

Opened = TypeVar("Opened")


class Sized(Protocol):
    """What is opened: it has a name of its own and the bytes that it needs."""

    @property
    def name(self) -> str: ...

    @property
    def needed(self) -> int: ...


Each = TypeVar("Each", bound=Sized)


class Kept(Generic[Each, Opened]):
    """Opens what is asked for and keeps it; what was asked for longest ago is closed where room is wanted.

    As a context manager it closes all at the end.

    Attributes:
        reopened: how many times something was opened that had been closed for want of room.
    """

    def __init__(self, room: int, opened: Callable[[Each], AbstractContextManager[Opened]]) -> None:
        """
        Args:
            room: bytes for all that is open; one alone may have more.
            opened: opens one.
        """
        self.reopened = 0
        self._room = room
        self._opened = opened
        # The one asked for longest ago comes first.
        self._open: dict[str, tuple[Each, ExitStack, Opened]] = {}
        self._seen: set[str] = set()

    def get(self, item: Each) -> Opened:
        """`item`, opened unless it is open."""
        entry = self._open.pop(item.name, None)
        if entry is None:
            while self._open and item.needed + sum(o.needed for o, _, _ in self._open.values()) > self._room:
                _, stack, _ = self._open.pop(next(iter(self._open)))
                stack.close()
            stack = ExitStack()
            entry = item, stack, stack.enter_context(self._opened(item))
            self.reopened += item.name in self._seen
            self._seen.add(item.name)
        self._open[item.name] = entry
        return entry[2]

    def drop(self, item: Each) -> None:
        """Closes `item` if it is open: it will not be asked for again."""
        entry = self._open.pop(item.name, None)
        if entry is not None:
            entry[1].close()

    def __enter__(self) -> Kept[Each, Opened]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as all_of_them:
            for _, stack, _ in self._open.values():
                # What is told of an error: processes are killed then and not waited for.
                all_of_them.push(stack)
            self._open.clear()
