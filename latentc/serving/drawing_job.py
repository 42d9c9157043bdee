"""One request on its way to pictures."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from latentc.serving.api_error import ApiError
from latentc.serving.drawing_request import Drawing

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        file: in base64.
        size: width and height in pixels.
        parameters: what makes it again.
        flaws: kinds of `runtimes.flaws.Flaw`.
    """

    file: str
    size: tuple[int, int]
    parameters: Mapping[str, Any]
    flaws: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preview:
    """An unfinished picture: of picture `picture`, number `index` from 0, a PNG in base64."""

    picture: int
    index: int
    file: str


class DrawingJob:
    """A request that was accepted. It belongs to the event loop's thread.

    Attributes:
        waiting: the numbers of the pictures that nobody draws yet.
        running: those of the batch under way.
        step, steps: where that batch is.
        ended_at: seconds since the epoch; None until then.
    """

    def __init__(self, client: str, drawing: Drawing) -> None:
        self.id = uuid.uuid4().hex
        self.client = client
        self.drawing = drawing
        self.state: State = "queued"
        self.waiting = deque(range(len(drawing.seeds)))
        self.running: set[int] = set()
        self.step = 0
        self.steps = 0
        self.pictures: dict[int, Picture] = {}
        self.previews: list[Preview] = []
        self.error: ApiError | None = None
        self.created_at = time.time()
        self.ended_at: float | None = None
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.ended_at is not None

    def changed(self) -> None:
        """Wakes those who watch."""
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    def end(self, state: State, error: ApiError | None = None) -> None:
        """It is over; what comes of it later is dropped."""
        if not self.ended:
            self.state, self.error, self.ended_at = state, error, time.time()
            self.waiting.clear()
            self.running.clear()
            self.changed()

    async def changes(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Yields at once and after each change; the last time when it has ended.

        Args:
            seconds: after which it yields without a change, too.
        """
        while True:
            changed = self._changed
            ended = self.ended
            yield
            if ended:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), seconds)

    async def result(self) -> list[Picture]:
        """The pictures, in their order.

        Raises:
            ApiError: it failed, or was cancelled.
        """
        async for _ in self.changes():
            pass
        if self.error is not None:
            raise self.error
        if self.state == "cancelled":
            raise ApiError(409, "The request was cancelled.", code="cancelled")
        return [self.pictures[number] for number in sorted(self.pictures)]
